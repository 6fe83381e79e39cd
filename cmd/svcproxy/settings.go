package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"svcproxy/proxier"
)

// settingFlags are the flags that change what is programmed, with kube-proxy's names and defaults.
type settingFlags struct {
	detectLocalMode    string
	clusterCIDRs       []string
	bridge             string
	prefix             string
	nodePortAddresses  []string
	localhostNodePorts bool
	masqueradeAll      bool
	masqueradeBit      int32
}

func (f *settingFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.detectLocalMode, "detect-local-mode", string(proxier.ClusterCIDR),
		"how connections of pods are told from others, which are masqueraded: "+detectLocalModes())
	flags.StringSliceVar(&f.clusterCIDRs, "cluster-cidr", nil, "ranges that hold the addresses of all pods, one a family, for --detect-local-mode ClusterCIDR")
	flags.StringVar(&f.bridge, "pod-bridge-interface", "", "the bridge by which pods' connections come, for --detect-local-mode BridgeInterface")
	flags.StringVar(&f.prefix, "pod-interface-name-prefix", "", "how the names of pods' interfaces begin, for --detect-local-mode InterfaceNamePrefix")
	flags.StringSliceVar(&f.nodePortAddresses, "nodeport-addresses", nil,
		"where node ports answer: ranges, primary (the Node's primary addresses; all while the Node is not known), localhost (iptables and IPv4 only), all (default: primary for nftables, all for iptables)")
	flags.BoolVar(&f.localhostNodePorts, "iptables-localhost-nodeports", true, "let node ports answer on 127.0.0.0/8 too; iptables and IPv4 only")
	flags.BoolVar(&f.masqueradeAll, "masquerade-all", false, "masquerade every connection to a ClusterIP")
	flags.Int32Var(&f.masqueradeBit, "iptables-masquerade-bit", 14, "bit of the packet mark that tells connections to masquerade, 0 to 31; of nftables too")
}

func detectLocalModes() string {
	var names []string
	for _, m := range proxier.DetectLocalModes {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// settings returns the settings for a proxy mode.
func (f *settingFlags) settings(mode string) (proxier.Settings, error) {
	s := proxier.Settings{
		Mode:                 proxier.Mode(mode),
		DetectLocalMode:      proxier.DetectLocalMode(f.detectLocalMode),
		BridgeInterface:      f.bridge,
		InterfaceNamePrefix:  f.prefix,
		NoLocalhostNodePorts: !f.localhostNodePorts,
		MasqueradeAll:        f.masqueradeAll,
	}
	if !slices.Contains(proxier.DetectLocalModes, s.DetectLocalMode) {
		return s, unknown("detect-local-mode", f.detectLocalMode, detectLocalModes())
	}
	if err := f.checkInterfaces(s.DetectLocalMode); err != nil {
		return s, err
	}
	var err error
	if s.ClusterCIDRs, err = parseCIDRs("cluster-cidr", f.clusterCIDRs); err != nil {
		return s, err
	}
	if s.NodePortAddresses, err = proxier.ParseNodePortAddresses(f.nodePortAddresses); err != nil {
		return s, usageError{fmt.Errorf("--nodeport-addresses: %w", err)}
	}
	if f.masqueradeBit < 0 || f.masqueradeBit > 31 {
		return s, usageError{fmt.Errorf("--iptables-masquerade-bit: %d is not within 0 to 31", f.masqueradeBit)}
	}
	s.MasqueradeMark = 1 << f.masqueradeBit
	return s, nil
}

// checkInterfaces finds names that can't be an interface's, and missing ones that a mode needs.
func (f *settingFlags) checkInterfaces(mode proxier.DetectLocalMode) error {
	for _, named := range []struct {
		flag, value string
		needed      proxier.DetectLocalMode
	}{
		{"pod-bridge-interface", f.bridge, proxier.BridgeInterface},
		{"pod-interface-name-prefix", f.prefix, proxier.InterfaceNamePrefix},
	} {
		err := proxier.CheckInterface(named.value)
		switch {
		case named.value == "" && mode == named.needed:
			return usageError{fmt.Errorf("--%s: missing: --detect-local-mode %s needs it", named.flag, mode)}
		case named.value != "" && err != nil:
			return usageError{fmt.Errorf("--%s: %w", named.flag, err)}
		}
	}
	return nil
}

func parseCIDRs(flag string, texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err == nil && p.Addr().Is4In6() {
			err = errors.New(text + " holds IPv4-mapped IPv6 addresses, which no packet has: write it as IPv4")
		}
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", flag, err)}
		}
		all = append(all, p)
	}
	return all, nil
}
