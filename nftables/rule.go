package nftables

import (
	"fmt"

	"svcproxy/model"
)

// Rule is one of the few kinds of rules that a table holds. Rules are comparable.
type Rule struct {
	Kind RuleKind
	// Modulus is the number of indices that a Balance rule draws from.
	Modulus uint32
	// Foreign describes the expressions of a rule that is none of svcproxy's kinds.
	Foreign string
}

// RuleKind tells the rules of the table apart.
type RuleKind uint8

const (
	// Foreign is a rule that somebody else wrote.
	Foreign RuleKind = iota
	// Dispatch sends a packet to a Service where its destination says.
	Dispatch
	// UnknownPort rejects what is for a ClusterIP in use, but for none of its ports.
	UnknownPort
	// Unallocated drops what is for an address that Services may have and none has.
	Unallocated
	// Balance translates the destination to the endpoint at a random index.
	Balance
	// Drop drops.
	Drop
	// ResetTCP answers TCP with a reset, which the kernel does not rate-limit as it does ICMP.
	ResetTCP
	// Unreachable answers that the port is unreachable.
	Unreachable
	// MasqueradeHairpin masquerades connections of an endpoint to itself.
	MasqueradeHairpin
	// MasqueradeOutside masquerades connections to a ClusterIP from sources that are no pods.
	MasqueradeOutside
	// MasqueradeAll masquerades connections to a ClusterIP.
	MasqueradeAll
)

// text returns the rule in nft's words.
func (r Rule) text(f model.Family) string {
	ip := familyWord(f)
	frontend := ip + " daddr . meta l4proto . th dport"
	switch r.Kind {
	case Dispatch:
		return frontend + " vmap @" + servicesMap
	case UnknownPort:
		return ip + " daddr @" + clusterIPsSet + " goto " + noEndpointsChain
	case Unallocated:
		return ip + " daddr @" + serviceCIDRsSet + " drop"
	case Balance:
		return fmt.Sprintf("dnat %s to %s . numgen random mod %d map @%s", ip, frontend, r.Modulus, endpointsMap)
	case Drop:
		return "drop"
	case ResetTCP:
		return "meta l4proto tcp reject with tcp reset"
	case Unreachable:
		return "reject"
	case MasqueradeHairpin:
		return fmt.Sprintf("ct status dnat %s saddr . %s daddr @%s masquerade fully-random", ip, ip, hairpinSet)
	case MasqueradeOutside:
		return fmt.Sprintf("ct status dnat ct original %s daddr @%s %s saddr != @%s masquerade fully-random", ip, clusterIPsSet, ip, podNetsSet)
	case MasqueradeAll:
		return fmt.Sprintf("ct status dnat ct original %s daddr @%s masquerade fully-random", ip, clusterIPsSet)
	}
	return "# not svcproxy's: " + r.Foreign
}

// familyWord returns nft's word for a family.
func familyWord(f model.Family) string {
	if f == model.IPv4 {
		return "ip"
	}
	return "ip6"
}

// balanceRules are the rules of the chain that balances over n endpoints.
func balanceRules(n uint32) []Rule {
	return []Rule{{Kind: Balance, Modulus: n}, {Kind: Balance, Modulus: 1}, {Kind: Drop}}
}
