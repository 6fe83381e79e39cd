package conntrack

import (
	"fmt"
	"net/netip"

	"svcproxy/model"
)

// Flow is an entry of the connection tracking table.
type Flow struct {
	Protocol model.Protocol
	// Original is the way of the first packet as its sender meant it, Reply that of an answer as it enters
	// this node. They mirror each other unless the flow is translated.
	Original, Reply Tuple
	// Zone is the conntrack zone of either direction; Services know only the default one, 0.
	Zone uint16
	// ID tells the entry from others that have or had the same Original.
	ID uint32
}

// Tuple is a direction of a flow. Its ports are 0 for protocols without.
type Tuple struct {
	Source, Dest netip.AddrPort
}

// Translated tells whether the flow leads elsewhere than its first packet was sent to.
func (f *Flow) Translated() bool { return f.Reply.Source != f.Original.Dest }

// String returns the flow in one line.
func (f Flow) String() string {
	return fmt.Sprintf("%s %s > %s, answered %s > %s", f.Protocol, f.Original.Source, f.Original.Dest, f.Reply.Source, f.Reply.Dest)
}
