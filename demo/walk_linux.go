package demo

import (
	"context"
	"strings"

	"svcproxy/model"
)

// walk follows a query through the rules by hand, as an operator does.
func (s *story) walk(ctx context.Context) {
	if s.mode == "iptables" {
		s.title("The same walk by hand, from the address to a pod")
		s.walkChains(ctx, "iptables-save", "iptables-save -t nat")
		return
	}
	s.title("The same walk by hand, from the address to a pod: map elements, and one chain for all with two endpoints")
	s.walkMaps(ctx)
	s.title("The chains that everybody knows, as the iptables mode would program them")
	s.walkChains(ctx, "svcproxy", "svcproxy render --proxy-mode iptables --cluster-cidr 10.244.0.0/16 -f .")
}

// walkChains greps its way from the ClusterIP over KUBE-SVC and KUBE-SEP to the translation.
func (s *story) walkChains(ctx context.Context, program, source string) {
	service := chainOf("dns-tcp", model.TCP)
	out, ok := s.fromNode(ctx, program, source+" | grep "+dnsAddress+".*dns-tcp")
	if !ok {
		return
	}
	s.check(strings.Contains(out, "-j "+service), "%s, TCP port 53, leads to %s", dnsAddress, service)
	out, ok = s.fromNode(ctx, program, source+" | grep -e '-A "+service+"'")
	if !ok {
		return
	}
	s.check(strings.Contains(out, "--probability 0.5"), "half of the connections take the first endpoint, the rest the second")
	_, endpoint, _ := strings.Cut(out, "-j "+model.EndpointChainPrefix)
	endpoint = model.EndpointChainPrefix + strings.Fields(endpoint + " ?")[0]
	out, ok = s.fromNode(ctx, program, source+" | grep -e '-A "+endpoint+"'")
	if ok {
		s.check(strings.Contains(out, "--to-destination 10.244.0.3:53"), "%s translates to the first DNS pod", endpoint)
	}
}

// walkMaps reads the elements that a query meets in the nftables mode.
func (s *story) walkMaps(ctx context.Context) {
	out, ok := s.fromNode(ctx, "nft", "nft list map ip svcproxy services | grep '"+dnsAddress+" '")
	if !ok {
		return
	}
	_, chain, _ := strings.Cut(out, "goto ")
	chain = strings.Trim(strings.Fields(chain + " ?")[0], ",")
	s.check(strings.HasPrefix(chain, "lb-2"), "%s leads to the chain for two endpoints", dnsAddress)
	out, ok = s.fromNode(ctx, "nft", "nft list chain ip svcproxy "+chain)
	if ok {
		s.check(strings.Contains(out, "numgen random mod 2"), "it draws one of two indices")
	}
	out, ok = s.fromNode(ctx, "nft", "nft list map ip svcproxy endpoints | grep '"+dnsAddress+" . tcp'")
	if ok {
		s.check(strings.Contains(out, "10.244.0.3 . 53") && strings.Contains(out, "10.244.0.4 . 53"), "and the address with the index leads to a pod")
	}
}
