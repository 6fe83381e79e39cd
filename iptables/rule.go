package iptables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"svcproxy/model"
)

// Targets that end a rule, besides the names of chains.
const (
	targetAccept     = "ACCEPT"
	targetDNAT       = "DNAT"
	targetDrop       = "DROP"
	targetMark       = "MARK"
	targetMasquerade = "MASQUERADE"
	targetReject     = "REJECT"
	targetReturn     = "RETURN"
)

// CTState is a set of connection tracking states.
type CTState uint8

// The states, in the order in which iptables-save prints them.
const (
	StateInvalid CTState = 1 << iota
	StateNew
	StateRelated
	StateEstablished
	StateUntracked
	StateSNAT
	StateDNAT
)

var stateNames = []string{"INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"}

// String returns the states as iptables-save prints them, such as "RELATED,ESTABLISHED".
func (s CTState) String() string { return bitNames(uint(s), stateNames) }

// bitNames returns the names of the bits that are set.
func bitNames(set uint, all []string) string {
	var names []string
	for i, name := range all {
		if set&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// AddrType is a set of kinds of addresses, as the node's routes have them (addrtype).
type AddrType uint16

// TypeLocal is an address of the node's own.
const TypeLocal AddrType = 1 << 2

// typeNames are the kinds in the order of their bits, which is that in which iptables-save prints them.
var typeNames = []string{"UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE",
	"PROHIBIT", "THROW", "NAT", "XRESOLVE"}

// String returns the kinds as iptables-save prints them.
func (t AddrType) String() string { return bitNames(uint(t), typeNames) }

// RecentOp is what a Recent does with its list.
type RecentOp uint8

// What a Recent does.
const (
	// RecentSet puts the packet's source into the list, and matches.
	RecentSet RecentOp = iota + 1
	// RecentCheck matches sources in the list.
	RecentCheck
)

// Recent is a list of sources and what is done with it; the zero Recent is none. Such lists are the memory
// of session affinity.
type Recent struct {
	Op   RecentOp
	Name string
	// Seconds is how old an entry may be for RecentCheck to match, 0 for any age.
	Seconds uint32
	// Reap makes RecentCheck remove older ones.
	Reap bool
	// IPv6 says that the sources are of that family.
	IPv6 bool
}

func (r Recent) append(b []byte) []byte {
	switch r.Op {
	case RecentSet:
		b = append(b, " -m recent --set"...)
	case RecentCheck:
		b = append(b, " -m recent --rcheck"...)
		if r.Seconds != 0 {
			b = strconv.AppendUint(append(b, " --seconds "...), uint64(r.Seconds), 10)
		}
		if r.Reap {
			b = append(b, " --reap"...)
		}
	default:
		return b
	}
	return fmt.Appendf(b, " --name %s --mask %s --rsource", appendQuoted(nil, r.Name), recentMask(r.IPv6))
}

// recentMask returns the mask that keeps every source apart.
func recentMask(ipv6 bool) string {
	if ipv6 {
		return "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	}
	return "255.255.255.255"
}

// Mark is a packet mark and the bits of it that count.
type Mark struct {
	Value, Mask uint32
}

// String returns the mark as iptables-save prints it.
func (m Mark) String() string {
	return "0x" + strconv.FormatUint(uint64(m.Value), 16) + "/0x" + strconv.FormatUint(uint64(m.Mask), 16)
}

// ProbabilityOne is a probability of 1. The kernel keeps 31 bits of it (xt_statistic).
const ProbabilityOne Probability = 1 << 31

// Probability is a rule's chance to match, in units of 2^-31. Zero stands for a rule without one, which
// always matches.
type Probability uint32

// probabilityOneIn returns the probability of 1/n as the kernel keeps it.
func probabilityOneIn(n int) Probability {
	return Probability((uint64(ProbabilityOne) + uint64(n)/2) / uint64(n))
}

// Float returns the probability as a fraction of 1.
func (p Probability) Float() float64 { return float64(p) / float64(ProbabilityOne) }

// String returns the probability as iptables-save prints it, with 11 decimals, which is enough to read back
// the same value.
func (p Probability) String() string { return strconv.FormatFloat(p.Float(), 'f', 11, 64) }

// Rule is one rule. Rules compare with ==: two are equal if they do the same and carry the same comment,
// however they were written.
type Rule struct {
	// Source and Dest match addresses; the zero Prefix matches all.
	Source, Dest netip.Prefix
	// In matches the interface by which a packet came, or, if it ends in "+", the beginning of its name.
	In string
	// These invert the match of the field of that name.
	NotSource, NotDest, NotIn, NotMark, NotState bool
	// Protocol is 0 where it does not count, and so is DestPort.
	Protocol model.Protocol
	State    CTState
	DestPort uint16
	// SourceType and DestType match what the node's routes say of an address; 0 matches all.
	SourceType, DestType AddrType
	Recent               Recent
	// Account is the name of the counter that a match without effect adds to (nfacct).
	Account string
	// Mark matches the packet's mark if its mask is not 0.
	Mark        Mark
	Probability Probability
	// RandomFully is an option of MASQUERADE.
	RandomFully bool
	// CommentLast says that the comment was written after the connection tracking state. The kernel keeps
	// the order, and `iptables --check` of the legacy kernel API finds only what has the same.
	CommentLast bool
	Comment     string
	// Target is a chain or one of iptables' own targets, or empty. Goto says that the chain does not return.
	Target string
	Goto   bool
	// To is where DNAT leads.
	To netip.AddrPort
	// SetMark is what MARK does: it clears the bits of the mask and then inverts those of the value.
	SetMark Mark
	// Other holds the matches that were read and that no field holds, and Options those of the target.
	Other, Options string
}

// append appends the rule without its chain, in the order in which iptables-save prints it.
func (r *Rule) append(b []byte) []byte {
	if r.Source.IsValid() {
		if r.NotSource {
			b = append(b, " !"...)
		}
		b = r.Source.AppendTo(append(b, " -s "...))
	}
	if r.Dest.IsValid() {
		if r.NotDest {
			b = append(b, " !"...)
		}
		b = r.Dest.AppendTo(append(b, " -d "...))
	}
	if r.In != "" {
		if r.NotIn {
			b = append(b, " !"...)
		}
		b = append(append(b, " -i "...), r.In...)
	}
	protocol := protocolName(r.Protocol)
	if protocol != "" {
		b = append(append(b, " -p "...), protocol...)
	}
	if r.CommentLast {
		b = r.appendState(b)
	}
	if r.Comment != "" {
		b = appendQuoted(append(b, " -m comment --comment "...), r.Comment)
	}
	b = r.Recent.append(b)
	b = r.appendTypes(b)
	if protocol != "" {
		b = append(append(b, " -m "...), protocol...)
	}
	if r.DestPort != 0 {
		b = strconv.AppendUint(append(b, " --dport "...), uint64(r.DestPort), 10)
	}
	if r.Mark.Mask != 0 {
		b = append(b, " -m mark"...)
		if r.NotMark {
			b = append(b, " !"...)
		}
		b = append(append(b, " --mark "...), r.Mark.String()...)
	}
	if !r.CommentLast {
		b = r.appendState(b)
	}
	if r.Probability != 0 {
		b = append(b, " -m statistic --mode random --probability "...)
		b = strconv.AppendFloat(b, r.Probability.Float(), 'f', 11, 64)
	}
	if r.Account != "" {
		b = appendQuoted(append(b, " -m nfacct --nfacct-name "...), r.Account)
	}
	if r.Other != "" {
		b = append(append(b, ' '), r.Other...)
	}
	return r.appendTarget(b)
}

func (r *Rule) appendState(b []byte) []byte {
	if r.State == 0 {
		return b
	}
	b = append(b, " -m conntrack"...)
	if r.NotState {
		b = append(b, " !"...)
	}
	return append(append(b, " --ctstate "...), r.State.String()...)
}

func (r *Rule) appendTypes(b []byte) []byte {
	if r.SourceType|r.DestType == 0 {
		return b
	}
	b = append(b, " -m addrtype"...)
	if r.SourceType != 0 {
		b = append(append(b, " --src-type "...), r.SourceType.String()...)
	}
	if r.DestType != 0 {
		b = append(append(b, " --dst-type "...), r.DestType.String()...)
	}
	return b
}

func (r *Rule) appendTarget(b []byte) []byte {
	if r.Target == "" {
		return b
	}
	verb := " -j "
	if r.Goto {
		verb = " -g "
	}
	b = append(append(b, verb...), r.Target...)
	switch r.Target {
	case targetDNAT:
		if r.To.IsValid() {
			b = r.To.AppendTo(append(b, " --to-destination "...))
		}
	case targetMark:
		b = append(append(b, " --set-xmark "...), r.SetMark.String()...)
	case targetMasquerade:
		if r.RandomFully {
			b = append(b, " --random-fully"...)
		}
	case targetReject:
		if r.Options == "" {
			b = append(append(b, " --reject-with "...), rejectWith(r.Dest)...)
		}
	}
	if r.Options != "" {
		b = append(append(b, ' '), r.Options...)
	}
	return b
}

// rejectWith returns what REJECT answers with unless it is told otherwise, as iptables-save prints it.
func rejectWith(dest netip.Prefix) string {
	if dest.Addr().Is6() {
		return "icmp6-port-unreachable"
	}
	return "icmp-port-unreachable"
}

// args returns the rule as arguments of the iptables command.
func (r *Rule) args() []string {
	fields, _ := split(nil, string(r.append(nil)))
	return fields
}

// protocolName returns the name by which iptables knows a protocol, and "" for 0.
func protocolName(p model.Protocol) string {
	switch p {
	case 0:
		return ""
	case model.TCP:
		return "tcp"
	case model.UDP:
		return "udp"
	case model.SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}
