package bench

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"text/tabwriter"
	"time"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/flows"
	"svcproxy/test/nstest"
)

// tableSize is how many flows the table holds, fewer than nf_conntrack_max, which can't be raised in a
// namespace, and staleFlows how many of them lead to an endpoint that is gone.
const (
	tableSize  = 200_000
	staleFlows = 1_000
)

var (
	resolver = netip.MustParseAddrPort("10.96.0.10:53")
	serves   = netip.MustParseAddrPort("10.244.0.3:53")
	gone     = netip.MustParseAddrPort("10.244.0.4:53")
)

// fullTable makes a namespace whose table holds n flows to the resolver, of which the first stale ones are.
func fullTable(t testing.TB, n, stale int) *nstest.NS {
	t.Helper()
	ns := nstest.New(t)
	all := make([]conntrack.Flow, n)
	for i := range all {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 245, byte(i / 60_000), 1}), uint16(1024+i%60_000))
		all[i] = flows.Translated(client, resolver, serves)
		if i < stale {
			all[i] = flows.Translated(client, resolver, gone)
		}
	}
	if err := ns.Do(func() error { return flows.Fill(all) }); err != nil {
		t.Fatal(err)
	}
	return ns
}

// resolverPlan is a plan with the resolver alone.
func resolverPlan() *plan.Plan {
	name := model.ServiceName{Namespace: "kube-system", Name: "kube-dns"}
	return plan.Build(plan.Config{Family: model.IPv4}, []plan.Input{{
		Name: name,
		Service: &model.Service{Name: name, ClusterIPs: []netip.Addr{resolver.Addr()},
			Ports: []model.ServicePort{{Name: "dns", Protocol: model.UDP, Port: resolver.Port()}}},
		Slices: []*model.Slice{{Name: model.SliceName{Namespace: "kube-system", Name: "kube-dns-1"}, Service: name, Family: model.IPv4,
			Ports:     []model.SlicePort{{Name: "dns", Protocol: model.UDP, Port: serves.Port()}},
			Endpoints: []model.Endpoint{{Addr: serves.Addr(), Ready: true, Serving: true}}}},
	}})
}

// cleanUp cleans the table as the proxy does at its start, and fails the test unless it removed what is stale
// and no more.
func cleanUp(t testing.TB, ns *nstest.NS, n, stale int) {
	t.Helper()
	p := resolverPlan()
	c := conntrack.NewCleaner(model.IPv4, conntrack.NewNetlink(ns.Path()))
	c.Acknowledged(plan.Change{Config: p.Config, Services: p.Services, Full: true}, nil)
	r, err := c.Clean(t.Context(), conntrack.Occasion{Plan: *p, Full: true})
	if err != nil || r.Read != n || r.Deleted != stale {
		t.Fatalf("%+v, %v; want %d read and %d deleted", r, err, n, stale)
	}
}

// cleaning is what one clean-up cost.
type cleaning struct {
	peer      string
	took, cpu time.Duration
	memory    int64
}

func measureCleaning(b testing.TB, peer string, clean func(ns *nstest.NS)) cleaning {
	ns := fullTable(b, tableSize, staleFlows)
	c := cleaning{peer: peer}
	cpu, start := cpuTime(b), time.Now()
	c.memory = peakMemory(b, func() {
		cpu, start = cpuTime(b), time.Now()
		clean(ns)
		c.took, c.cpu = time.Since(start), cpuTime(b)-cpu
	})
	return c
}

// The peer is told which endpoint is gone, and has nothing to compare; it looks at the same table.
func BenchmarkConntrack200000Flows(b *testing.B) {
	var own, peer cleaning
	b.Run("svcproxy", func(b *testing.B) {
		for range b.N {
			own = measureCleaning(b, "svcproxy", func(ns *nstest.NS) { cleanUp(b, ns, tableSize, staleFlows) })
		}
	})
	b.Run("conntrack-D", func(b *testing.B) {
		for range b.N {
			var memory int64
			peer = measureCleaning(b, "conntrack -D", func(ns *nstest.NS) {
				cmd := exec.CommandContext(b.Context(), "conntrack", "-D", "-p", "udp", "--orig-dst", resolver.Addr().String(), "--reply-src", gone.Addr().String())
				if err := ns.Start(cmd); err != nil {
					b.Fatal(err)
				}
				stop := watchPeak(cmd.Process.Pid)
				err := cmd.Wait()
				if memory = stop(); err != nil {
					b.Fatal(err)
				}
			})
			peer.memory = memory
		}
	})
	if own.peer != "" && peer.peer != "" {
		printCleaning(own, peer)
	}
}

func printCleaning(own, peer cleaning) {
	fmt.Printf("\nload average %s\n", load())
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%d flows, %d of them stale\t%s\t%s\tratio\t\n", tableSize, staleFlows, own.peer, peer.peer)
	for _, f := range []struct {
		name  string
		of    func(cleaning) float64
		write func(float64) string
	}{
		{"clean-up", func(c cleaning) float64 { return float64(c.took) }, writeTime},
		{"  for a flow in the table", func(c cleaning) float64 { return float64(c.took) / tableSize }, writeNanoseconds},
		{"  processor time", func(c cleaning) float64 { return float64(c.cpu) }, writeTime},
		{"peak memory", func(c cleaning) float64 { return float64(c.memory) }, writeBytes},
	} {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", f.name, f.write(f.of(own)), f.write(f.of(peer)), ratio(f.of(peer), f.of(own)))
	}
	t.Flush()
}

func writeNanoseconds(v float64) string { return fmt.Sprintf("%.0f ns", v) }

// In the small, what does not depend on speed.
func TestCleanUpOfAFullTableRemovesWhatIsStale(t *testing.T) {
	n := nstest.Sized(20_000, tableSize)
	ns := fullTable(t, n, staleFlows)
	cleanUp(t, ns, n, staleFlows)
	cleanUp(t, ns, n-staleFlows, 0)
}
