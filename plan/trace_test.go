package plan

import (
	"net/netip"
	"testing"

	"svcproxy/model"
)

// Sources are replaced as packets leave: the packet of somebody else for a process on this node does not.
func TestOnlyWhatLeavesTheNodeIsMasqueraded(t *testing.T) {
	c := onNode(anyPod)
	c.MasqueradeAll = true
	p := Build(c, []Input{{Name: everywhere().Name, Service: everywhere(), Slices: []*model.Slice{
		slice("a", on("n1", ready(nodeAddr.String())), on("n1", ready("10.244.1.1")))}}})
	for _, o := range origins {
		for kind, to := range destinations {
			outcome := p.Trace(o.packet(to))
			if len(outcome.Targets) != 2 {
				t.Fatalf("%s to %s: %v", o.name, kind, outcome)
			}
			for _, target := range outcome.Targets {
				ends := target.Endpoint.Addr() == nodeAddr && o.iface != ""
				if ends && target.Masquerade || !ends && kind == ClusterIP && !target.Masquerade {
					t.Errorf("%s to %s: %v", o.name, kind, outcome)
				}
			}
		}
	}
}

func TestAddressesOfTheNodeEndWhatCameByAnInterface(t *testing.T) {
	own, loopback, other := nodeAddr, netip.MustParseAddr("127.0.0.1"), otherNode
	for _, c := range []struct {
		iface string
		to    netip.Addr
		want  bool
	}{{"eth0", own, true}, {"eth0", loopback, true}, {"eth0", other, false}, {"", own, false}, {"", loopback, false}, {"", other, false}} {
		if got := (Packet{Interface: c.iface, Host: []netip.Addr{own}}).Ends(c.to); got != c.want {
			t.Errorf("by %q to %s: %v", c.iface, c.to, got)
		}
	}
}
