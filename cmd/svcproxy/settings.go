package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"svcproxy/proxier"
)

// settingFlags are the flags that change what is programmed.
type settingFlags struct {
	clusterCIDRs  []string
	masqueradeAll bool
}

func (f *settingFlags) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.clusterCIDRs, "cluster-cidr", nil, "ranges that hold the addresses of all pods, one a family; connections to ClusterIPs from elsewhere are masqueraded")
	flags.BoolVar(&f.masqueradeAll, "masquerade-all", false, "masquerade every connection to a ClusterIP")
}

func (f *settingFlags) settings() (proxier.Settings, error) {
	s := proxier.Settings{MasqueradeAll: f.masqueradeAll}
	for _, text := range f.clusterCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return s, usageError{fmt.Errorf("--cluster-cidr: %w", err)}
		}
		if p.Addr().Is4In6() {
			return s, usageError{fmt.Errorf("--cluster-cidr: %s holds IPv4-mapped IPv6 addresses, which no packet has: write it as IPv4", text)}
		}
		s.ClusterCIDRs = append(s.ClusterCIDRs, p)
	}
	return s, nil
}
