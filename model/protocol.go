package model

import (
	"fmt"
	"net/netip"
)

// Protocol is an IP protocol number. Services use TCP, UDP and SCTP only.
type Protocol uint8

// The protocols of a Service port, by their IANA numbers.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// ParseProtocol reads a protocol as the Kubernetes API writes it: "TCP", "UDP" or "SCTP".
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "TCP":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("unknown protocol %q: want TCP, UDP or SCTP", s)
}

// String returns the protocol's name as the Kubernetes API writes it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol-%d", uint8(p))
}

// Family is an IP family.
type Family uint8

// The IP families, by their version numbers.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, IPv4 first.
var Families = []Family{IPv4, IPv6}

// FamilyOf returns the family of an address. An IPv4-mapped IPv6 address counts as IPv6; convert
// addresses with Unmap before they enter the model.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// Bits returns the length of the family's addresses in bits.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}
