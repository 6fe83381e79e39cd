package flows

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/test/nstest"
)

// at returns an address and port of a family that read alike in both.
func at(f model.Family, net, host, port int) netip.AddrPort {
	text := fmt.Sprintf("10.%d.0.%d", net, host)
	if f == model.IPv6 {
		text = fmt.Sprintf("fd00:10:%d::%d", net, host)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(text), uint16(port))
}

// table is the connection tracking table of a namespace.
type table struct {
	conntrack.Table
	ns *nstest.NS
}

func newTable(t testing.TB, flows ...conntrack.Flow) *table {
	t.Helper()
	ns := nstest.New(t)
	if err := ns.Do(func() error { return Fill(flows) }); err != nil {
		t.Fatal(err)
	}
	opened, err := conntrack.NewNetlink(ns.Path()).Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return &table{opened, ns}
}

// flows returns the flows that are read, by the way of their first packets. Those of other families and
// protocols fail the test.
func (x *table) flows(t testing.TB, f model.Family) map[conntrack.Tuple]conntrack.Flow {
	t.Helper()
	found := map[conntrack.Tuple]conntrack.Flow{}
	err := x.Flows(t.Context(), f, model.UDP, func(flow conntrack.Flow) bool {
		if flow.Protocol != model.UDP || model.FamilyOf(flow.Original.Dest.Addr()) != f {
			t.Errorf("read, but not asked for: %s", flow)
		}
		if flow.Zone == 0 {
			found[flow.Original] = flow
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sctp makes a flow one of SCTP, which needs no state of its own to be made.
func sctp(f conntrack.Flow) conntrack.Flow {
	f.Protocol = model.SCTP
	return f
}

func TestFlowsAreReadAsTheyAre(t *testing.T) {
	for _, f := range model.Families {
		t.Run(f.String(), func(t *testing.T) {
			other := model.IPv4 + model.IPv6 - f
			masqueraded := Translated(at(f, 244, 2, 4000), at(f, 96, 10, 53), at(f, 244, 3, 5353))
			masqueraded.Reply.Dest = at(f, 244, 1, 61000)
			zoned := Translated(at(f, 244, 2, 4000), at(f, 96, 10, 53), at(f, 244, 9, 5353))
			zoned.Zone = 7
			made := []conntrack.Flow{
				masqueraded,
				Translated(at(f, 244, 2, 4001), at(f, 96, 10, 53), at(f, 96, 10, 53)), // not translated
				zoned,
				Translated(at(other, 244, 2, 4000), at(other, 96, 10, 53), at(other, 244, 3, 5353)),
				sctp(Translated(at(f, 244, 2, 4002), at(f, 96, 10, 53), at(f, 244, 3, 5353))),
			}
			x := newTable(t, made...)
			found := x.flows(t, f)
			if len(found) != 2 {
				t.Errorf("%d flows in the default zone, want 2: %v", len(found), found)
			}
			for _, want := range made[:2] {
				got := found[want.Original]
				if got.ID == 0 {
					t.Errorf("%s has no ID", got)
				}
				if got.ID = 0; got != want {
					t.Errorf("read %+v, want %+v", got, want)
				}
			}
			n := 0
			err := x.Flows(t.Context(), f, model.UDP, func(flow conntrack.Flow) bool {
				n++
				if flow.Reply == zoned.Reply && flow.Zone != 7 {
					t.Errorf("zone %d, want 7", flow.Zone)
				}
				return true
			})
			if err != nil || n != 3 {
				t.Errorf("%d flows in all zones, %v; want 3", n, err)
			}
		})
	}
}

func TestReadingStopsWhenAskedTo(t *testing.T) {
	var made []conntrack.Flow
	for i := range 2000 {
		made = append(made, Translated(at(model.IPv4, 244, 2, 1024+i), at(model.IPv4, 96, 10, 53), at(model.IPv4, 244, 3, 53)))
	}
	x, n := newTable(t, made...), 0
	if err := x.Flows(t.Context(), model.IPv4, model.UDP, func(conntrack.Flow) bool { n++; return n < 10 }); err != nil || n != 10 {
		t.Errorf("%d flows, %v; want 10", n, err)
	}
	if got := len(x.flows(t, model.IPv4)); got != len(made) {
		t.Errorf("%d flows read afterwards, want %d", got, len(made))
	}
}

func TestFlowsAreDeletedAndNoOthers(t *testing.T) {
	for _, f := range model.Families {
		t.Run(f.String(), func(t *testing.T) {
			var made []conntrack.Flow
			for i := range 500 {
				made = append(made, Translated(at(f, 244, 2, 1024+i), at(f, 96, 10, 53), at(f, 244, 3, 53)))
			}
			x := newTable(t, made...)
			all := slices.Collect(maps.Values(x.flows(t, f)))
			n, err := x.Delete(t.Context(), f, all[:100])
			if err != nil || n != 100 {
				t.Fatalf("deleted %d, %v; want 100", n, err)
			}
			n, err = x.Delete(t.Context(), f, all[50:150]) // half of them are gone
			if err != nil || n != 50 {
				t.Fatalf("deleted %d, %v; want 50", n, err)
			}
			left := x.flows(t, f)
			if len(left) != 350 {
				t.Errorf("%d flows left, want 350", len(left))
			}
			for _, flow := range all[150:] {
				if left[flow.Original] != flow {
					t.Errorf("%s is gone", flow)
				}
			}
			if n, err := x.Delete(t.Context(), f, nil); n != 0 || err != nil {
				t.Errorf("deleting none: %d, %v", n, err)
			}
			if got := len(x.flows(t, f)); got != 350 {
				t.Errorf("deleting none left %d flows of 350", got)
			}
		})
	}
}

func TestAFlowThatTookAnothersPlaceStays(t *testing.T) {
	client, frontend := at(model.IPv4, 244, 2, 4000), at(model.IPv4, 96, 10, 53)
	old := Translated(client, frontend, at(model.IPv4, 244, 3, 53))
	x := newTable(t, old)
	stale := x.flows(t, model.IPv4)[old.Original]
	x.ns.Run(t, "conntrack", "-D", "-p", "udp", "--orig-src", client.Addr().String())
	healthy := Translated(client, frontend, at(model.IPv4, 244, 4, 53))
	if err := x.ns.Do(func() error { return Fill([]conntrack.Flow{healthy}) }); err != nil {
		t.Fatal(err)
	}
	n, err := x.Delete(t.Context(), model.IPv4, []conntrack.Flow{stale})
	if n != 0 || err != nil {
		t.Errorf("deleted %d, %v; want none, as the flow is another", n, err)
	}
	if got := x.flows(t, model.IPv4)[healthy.Original]; got.Reply != healthy.Reply {
		t.Errorf("the new flow is gone: %v", got)
	}
}

func TestOwnAddressesAreThoseOfTheKernel(t *testing.T) {
	x := newTable(t)
	x.ns.Run(t, "ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	x.ns.Run(t, "ip", "link", "set", "d0", "up")
	x.ns.Run(t, "ip", "address", "add", "192.0.2.1/24", "dev", "d0")
	x.ns.Run(t, "ip", "-6", "address", "add", "2001:db8::1/64", "dev", "d0", "nodad")
	x.ns.Run(t, "ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	x.ns.Run(t, "ip", "route", "add", "203.0.113.0/24", "dev", "d0")
	// A transparent proxy's routes, for marked packets.
	x.ns.Run(t, "ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
	x.ns.Run(t, "ip", "-6", "route", "add", "local", "::/0", "dev", "lo", "table", "100")
	for f, want := range map[model.Family]map[string]bool{
		model.IPv4: {"192.0.2.1": true, "127.0.0.1": true, "127.9.9.9": true, "198.51.100.77": true,
			"192.0.2.2": false, "192.0.2.255": false, "203.0.113.1": false, "10.0.0.1": false},
		model.IPv6: {"2001:db8::1": true, "::1": true, "2001:db8::2": false, "ff02::1": false},
	} {
		own, err := x.Own(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		host := conntrack.NewHost(own)
		for addr, is := range want {
			if got := host.Own(netip.MustParseAddr(addr)); got != is {
				t.Errorf("%s is the node's own: %t, want %t (of %v)", addr, got, is, own)
			}
		}
	}
}

func TestEndedContextEndsEverything(t *testing.T) {
	x := newTable(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Flows(ctx, model.IPv4, model.UDP, func(conntrack.Flow) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("Flows: %v", err)
	}
	if _, err := x.Delete(ctx, model.IPv4, []conntrack.Flow{Translated(at(4, 1, 1, 1), at(4, 1, 1, 2), at(4, 1, 1, 3))}); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := x.Own(ctx, model.IPv4); !errors.Is(err, context.Canceled) {
		t.Errorf("Own: %v", err)
	}
}

func TestOrdinaryUserCanRunKernelTests(t *testing.T) {
	nstest.Unprivileged(t, "^(TestFlowsAre.*|TestAFlowThat.*)$")
}

func TestWhoMayNotReadTheTableIsTold(t *testing.T) {
	nstest.Require(t)
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with its lost privilege
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		if err := unix.Capset(&header, &sets[0]); err != nil {
			failed <- err
			return
		}
		table, err := conntrack.NewNetlink("").Open()
		if err == nil {
			err = table.Flows(t.Context(), model.IPv4, model.UDP, func(conntrack.Flow) bool { return true })
		}
		failed <- err
	}()
	if err := <-failed; !errors.Is(err, conntrack.ErrNotPermitted) {
		t.Errorf("without a privilege: %v", err)
	}
}
