package main

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"svcproxy/proxier"
)

// A setting that makes no sense is a usage error that names its flag, in every command that has it.
func TestBadSettingsNameTheirFlag(t *testing.T) {
	for _, bad := range [][]string{
		{"--cluster-cidr", "10.0.0.0/33"}, {"--cluster-cidr", "::ffff:10.0.0.0/112"},
		{"--detect-local-mode", "clusterCIDR"}, {"--detect-local-mode", ""},
		{"--pod-bridge-interface", "a/b"}, {"--pod-bridge-interface", "", "--detect-local-mode", "BridgeInterface"},
		{"--pod-interface-name-prefix", "veth+"}, {"--pod-interface-name-prefix", "", "--detect-local-mode", "InterfaceNamePrefix"},
		{"--nodeport-addresses", "10.0.0.1"}, {"--nodeport-addresses", "primary,primary"}, {"--nodeport-addresses", "Primary"},
		{"--iptables-masquerade-bit", "32"}, {"--iptables-masquerade-bit", "-1"}, {"--iptables-localhost-nodeports=maybe"},
		{"--masquerade-all=maybe"},
	} {
		flag, _, _ := strings.Cut(bad[0], "=")
		for _, command := range [][]string{{"render", "-f", kubeDNS}, {"run", "--manifests", "none", "--netns", "none"}} {
			args := append(command, bad...)
			_, err := run(t, args...)
			if usage := (usageError{}); !errors.As(err, &usage) || !strings.Contains(err.Error(), flag) {
				t.Errorf("svcproxy %s: got %v, want a usage error that names %s", strings.Join(args, " "), err, flag)
			}
		}
	}
}

func TestSettingsAreKubeProxysByDefault(t *testing.T) {
	for mode, want := range map[string]proxier.Settings{
		"nftables": {Mode: proxier.NFTables, DetectLocalMode: proxier.ClusterCIDR, MasqueradeMark: 1 << 14},
		"iptables": {Mode: proxier.IPTables, DetectLocalMode: proxier.ClusterCIDR, MasqueradeMark: 1 << 14},
	} {
		var f settingFlags
		f.register(pflag.NewFlagSet("", pflag.ContinueOnError))
		got, err := f.settings(mode)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", mode, got, err, want)
		}
	}
	var f settingFlags
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.register(flags)
	if err := flags.Parse([]string{"--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0", "--pod-interface-name-prefix", "veth",
		"--cluster-cidr", "10.244.0.0/16,fd00::/48", "--nodeport-addresses", "primary,10.0.0.0/8", "--iptables-localhost-nodeports=false",
		"--masquerade-all", "--iptables-masquerade-bit", "31"}); err != nil {
		t.Fatal(err)
	}
	want := proxier.Settings{
		Mode: proxier.IPTables, DetectLocalMode: proxier.BridgeInterface, BridgeInterface: "cni0", InterfaceNamePrefix: "veth",
		ClusterCIDRs:         []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/48")},
		NodePortAddresses:    proxier.NodePortAddresses{Primary: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		NoLocalhostNodePorts: true, MasqueradeAll: true, MasqueradeMark: 1 << 31,
	}
	if got, err := f.settings("iptables"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
