package kubelet

import (
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// DNS is what pods' /etc/resolv.conf is made of.
type DNS struct {
	// Servers are the cluster's name servers; with none, ClusterFirst pods get what Default ones get.
	Servers []netip.Addr
	// Domain is the cluster's, "cluster.local".
	Domain string
	// Options of ClusterFirst pods; nil is ndots:5.
	Options []string
	// NodeServers, NodeSearches and NodeOptions are the node's own, for dnsPolicy Default; the searches follow the
	// cluster's for ClusterFirst.
	NodeServers  []netip.Addr
	NodeSearches []string
	NodeOptions  []string
}

// The limits of resolv.conf: kubelet's, and glibc's for name servers.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
)

// resolvConf is a pod's /etc/resolv.conf by its dnsPolicy and dnsConfig, and what had to be left out.
func (d DNS) resolvConf(pod *v1.Pod) (text string, warnings []string) {
	var servers, searches, options []string
	policy := pod.Spec.DNSPolicy
	if policy == "" || policy == v1.DNSClusterFirstWithHostNet {
		policy = v1.DNSClusterFirst
	}
	if policy == v1.DNSClusterFirst && len(d.Servers) == 0 {
		warnings = append(warnings, "there is no cluster DNS: falling back to dnsPolicy Default")
		policy = v1.DNSDefault
	}
	switch policy {
	case v1.DNSClusterFirst:
		servers = addrStrings(d.Servers)
		searches = slices.Concat([]string{pod.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}, d.NodeSearches)
		if options = d.Options; options == nil {
			options = []string{"ndots:5"}
		}
	case v1.DNSDefault:
		servers, searches, options = addrStrings(d.NodeServers), d.NodeSearches, d.NodeOptions
	}
	if own := pod.Spec.DNSConfig; own != nil {
		servers = append(slices.Clone(servers), own.Nameservers...)
		searches = append(slices.Clone(searches), own.Searches...)
		options = mergeOptions(options, own.Options)
	}
	servers, searches = unique(servers), unique(searches)
	if len(servers) > maxNameservers {
		servers = servers[:maxNameservers]
		warnings = append(warnings, "nameserver limits were exceeded, some were left out, the applied nameservers are "+strings.Join(servers, " "))
	}
	if kept := fitSearches(searches); len(kept) < len(searches) {
		searches = kept
		warnings = append(warnings, "search line limits were exceeded, some search paths were left out, the applied search line is "+strings.Join(searches, " "))
	}
	return formatResolvConf(servers, searches, options), warnings
}

func formatResolvConf(servers, searches, options []string) string {
	var b strings.Builder
	if len(searches) > 0 {
		b.WriteString("search " + strings.Join(searches, " ") + "\n")
	}
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return b.String()
}

func fitSearches(searches []string) []string {
	length := 0
	for i, s := range searches {
		length += len(s) + 1
		if i == maxSearches || length-1 > maxSearchLength {
			return searches[:i]
		}
	}
	return searches
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(options []string, own []v1.PodDNSConfigOption) []string {
	out := slices.Clone(options)
	for _, o := range own {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		i := slices.IndexFunc(out, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name })
		if i >= 0 {
			out[i] = text
		} else {
			out = append(out, text)
		}
	}
	return out
}

func addrStrings(addrs []netip.Addr) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

// unique keeps the first of equal strings.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
