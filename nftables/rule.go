package nftables

import (
	"fmt"
	"strings"

	"svcproxy/model"
)

// Rule is one of the few kinds of rules that a table holds. Rules are comparable.
type Rule struct {
	Kind RuleKind
	// NotPods, unless empty, limits the rule to packets that come from no pod: fromPodNets those whose
	// source is in no prefix of pods, else those that came by no interface of that name.
	NotPods string
	// NodePort masks the destination's address away, so that its port alone counts.
	NodePort bool
	// Modulus is the number of indices that a rule draws from, and Offset the first of them.
	Modulus, Offset uint32
	// Timeout in seconds is how long a client is remembered.
	Timeout uint32
	// Mark is the bit of the packet mark that a rule sets or tests.
	Mark uint32
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
	// DispatchOutside does so for packets from outside, where that makes a difference.
	DispatchOutside
	// NodePorts looks for a node port if the destination is one of the node's addresses that have them.
	NodePorts
	// UnknownPort rejects what is for a ClusterIP in use, but for none of its ports.
	UnknownPort
	// Unallocated drops what is for an address that Services may have and none has.
	Unallocated
	// Limited tells new connections to frontends that only some sources may use.
	Limited
	// AllowedSource accepts those sources.
	AllowedSource
	// Mark sets the mark bit of connections to masquerade.
	Mark
	// Stick translates the destination to the endpoint that the client had last, and remembers it anew.
	Stick
	// PickAndStick translates the destination to the endpoint at a random index, and remembers it.
	PickAndStick
	// Balance translates the destination to the endpoint at a random index.
	Balance
	// Drop drops.
	Drop
	// ResetTCP answers TCP with a reset, which the kernel does not rate-limit as it does ICMP.
	ResetTCP
	// Unreachable answers that the port is unreachable.
	Unreachable
	// MasqueradeMarked masquerades connections with the mark bit, and clears it.
	MasqueradeMarked
	// MasqueradeHairpin masquerades connections of an endpoint to itself.
	MasqueradeHairpin

	ruleKinds
)

// text returns the rule in nft's words. Those of rules that nft cannot be told are a comment.
func (r Rule) text(f model.Family) string {
	ip := familyWord(f)
	rest := " . meta l4proto . th dport"
	frontend := ip + " daddr" + rest
	if r.NodePort {
		frontend = ip + " daddr & " + unspecified(f) + rest
	}
	outside := r.notPodsText(ip) + "fib saddr type != local "
	switch r.Kind {
	case Dispatch:
		return frontend + " vmap @" + servicesMap
	case DispatchOutside:
		return outside + frontend + " vmap @" + servicesOutsideMap
	case NodePorts:
		return fmt.Sprintf("%s daddr @%s %s daddr != %s fib daddr type local jump %s", ip, nodePortNetsSet, ip, loopback(f), nodePortsChain)
	case UnknownPort:
		return ip + " daddr @" + clusterIPsSet + " goto " + noEndpointsChain
	case Unallocated:
		return ip + " daddr @" + serviceCIDRsSet + " drop"
	case Limited:
		return "ct state new " + frontend + " @" + limitedSet + " goto " + sourceRangesChain
	case AllowedSource:
		return frontend + " . " + ip + " saddr @" + sourceRangesSet + " accept"
	case Mark:
		return fmt.Sprintf("%smeta mark set meta mark | 0x%08x", r.notPodsText(ip), r.Mark)
	case Stick:
		return fmt.Sprintf("# session affinity, %d s: dnat to the endpoint that %s saddr has in @%s for the list of %s at %d in @%s, if @%s has it still",
			r.Timeout, ip, affinityMap, frontend, r.Offset, affinityListsMap, affinityEndpointsMap)
	case PickAndStick:
		return fmt.Sprintf("# session affinity, %d s: dnat as numgen random mod %d offset %d map @%s says, and remember it in @%s",
			r.Timeout, r.Modulus, r.Offset, affinityPicksMap, affinityMap)
	case Balance:
		offset := ""
		if r.Offset > 0 {
			offset = fmt.Sprintf(" offset %d", r.Offset)
		}
		return fmt.Sprintf("dnat %s to %s . numgen random mod %d%s map @%s", ip, frontend, r.Modulus, offset, endpointsMap)
	case Drop:
		return "drop"
	case ResetTCP:
		return "meta l4proto tcp reject with tcp reset"
	case Unreachable:
		return "reject"
	case MasqueradeMarked:
		return fmt.Sprintf("meta mark & 0x%08x == 0x%08x meta mark set meta mark & 0x%08x masquerade fully-random", r.Mark, r.Mark, ^r.Mark)
	case MasqueradeHairpin:
		return fmt.Sprintf("ct status dnat %s saddr . %s daddr @%s masquerade fully-random", ip, ip, hairpinSet)
	}
	return "# not svcproxy's: " + r.Foreign
}

// notPodsText returns the test that lets packets pass that come from no pod.
func (r Rule) notPodsText(ip string) string {
	switch r.NotPods {
	case "":
		return ""
	case fromPodNets:
		return fmt.Sprintf("%s saddr != %s ", ip, fromPodNets)
	}
	name, wildcard := strings.CutSuffix(r.NotPods, "+")
	if wildcard {
		name += "*"
	}
	return fmt.Sprintf("iifname != %q ", name)
}

// familyWord returns nft's word for a family.
func familyWord(f model.Family) string {
	if f == model.IPv4 {
		return "ip"
	}
	return "ip6"
}

func unspecified(f model.Family) string {
	if f == model.IPv4 {
		return "0.0.0.0"
	}
	return "::"
}

func loopback(f model.Family) string {
	if f == model.IPv4 {
		return "127.0.0.0/8"
	}
	return "::1"
}
