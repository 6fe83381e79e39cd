package nftables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/nstest"
)

// open returns a backend in a namespace of its own.
func open(t testing.TB, f model.Family) (*Backend, *nstest.NS, Options) {
	t.Helper()
	ns := nstest.New(t)
	o := Options{Family: f, NetNS: ns.Path()}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, ns, o
}

func apply(t testing.TB, b *Backend, c plan.Change) plan.Result {
	t.Helper()
	res, err := b.Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func observe(t testing.TB, o Options) *Ruleset {
	t.Helper()
	r, err := Observe(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func render1(t testing.TB, p *plan.Plan) *Ruleset {
	t.Helper()
	r, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// differ fails the test unless two rulesets are equal.
func differ(t testing.TB, have, want *Ruleset) {
	t.Helper()
	if have.Equal(want) {
		return
	}
	d := Diff(have, want)
	t.Errorf("rulesets differ: %s (%d writes)\nhave %s\nwant %s", d.Example(), d.Writes(), clip(have.Text()), clip(want.Text()))
}

func clip(s string) string {
	if len(s) > 3000 {
		return s[:3000] + "…"
	}
	return s
}

// samples are plans that between them hold every kind of rule and element.
func samples(f model.Family) map[string]*plan.Plan {
	b := builder{f}
	all := []model.Protocol{model.TCP, model.UDP, model.SCTP}
	services := []*plan.Service{
		b.service(1, b.endpoints(0, 1), all...), b.service(2, b.endpoints(3, 2), model.TCP),
		b.service(3, nil, all...), b.service(4, b.endpoints(0, 11), model.UDP),
	}
	long := b.service(5, b.endpoints(0, 3), model.TCP)
	long.Ports[0].Name.Service = model.ServiceName{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("s", 63)}
	odd := b.service(6, b.endpoints(0, 3), model.TCP)
	odd.Ports[0].Name.Port = "a\"b\\c\nd"
	everywhere := b.config()
	everywhere.MasqueradeAll, everywhere.Detector.Prefixes = true, nil
	adjacent := b.config()
	first := adjacent.ServiceCIDRs[0]
	adjacent.ServiceCIDRs = append(adjacent.ServiceCIDRs, prefixBehind(first))
	widest, last := b.config(), netip.MustParsePrefix("240.0.0.0/4")
	if f == model.IPv6 {
		last = netip.MustParsePrefix("f000::/4")
	}
	widest.Detector.Prefixes = []netip.Prefix{netip.PrefixFrom(last.Addr(), 0)}
	widest.ServiceCIDRs = append(widest.ServiceCIDRs, last, widest.ServiceCIDRs[0], netip.PrefixFrom(b.vip(1), last.Addr().BitLen()))
	nothing := plan.Config{Family: f}
	out := map[string]*plan.Plan{
		"usual": planOf(b.config(), services...), "odd names": planOf(b.config(), long, odd),
		"masquerade all": planOf(everywhere, services...), "adjacent ranges": planOf(adjacent, services[0]),
		"widest ranges": planOf(widest, services[0]),
		"no ranges":     planOf(nothing, services...), "no Services": planOf(b.config()), "nothing": planOf(nothing),
	}
	for name, c := range b.configs() {
		out["every class, "+name] = plan.Build(c, b.inputs(rand.New(rand.NewPCG(1, 1)), 60))
	}
	return out
}

func forEachSample(t *testing.T, test func(t *testing.T, p *plan.Plan)) {
	for _, f := range model.Families {
		for name, p := range samples(f) {
			t.Run(fmt.Sprintf("%s/%s", f, name), func(t *testing.T) { test(t, p) })
		}
	}
}

func TestTheKernelHoldsWhatWasRendered(t *testing.T) {
	forEachSample(t, func(t *testing.T, p *plan.Plan) {
		b, _, o := open(t, p.Config.Family)
		apply(t, b, full(p))
		differ(t, observe(t, o), render1(t, p))
		if again := apply(t, b, full(p)); again.Writes != 0 || again.Drift != 0 {
			t.Errorf("applying it again wrote: %+v", again)
		}
	})
}

func TestNftLoadsTheTextToTheSameRuleset(t *testing.T) {
	forEachSample(t, func(t *testing.T, p *plan.Plan) {
		ns := nstest.New(t)
		want := render1(t, p)
		ns.RunInput(t, want.Text(), "nft", "-c", "-f", "-")
		ns.RunInput(t, want.Text(), "nft", "-f", "-")
		differ(t, observe(t, Options{Family: p.Config.Family, NetNS: ns.Path()}), speakable(want))
	})
}

// speakable returns a ruleset without the rules that nft has no words for: those of session affinity, which
// the text has in comments, so that what nft loads balances without it.
func speakable(r *Ruleset) *Ruleset {
	out := clone(r)
	for name, c := range out.Chains {
		c.Rules = slices.DeleteFunc(c.Rules, func(r Rule) bool { return r.Kind == Stick || r.Kind == PickAndStick })
		out.Chains[name] = c
	}
	return out
}

func TestNftListsWhatTheBackendPrograms(t *testing.T) {
	forEachSample(t, func(t *testing.T, p *plan.Plan) {
		b, ns, _ := open(t, p.Config.Family)
		apply(t, b, full(p))
		listed := ns.Run(t, "nft", "list", "ruleset")
		for _, want := range []string{"map services", "chain prerouting"} {
			if !strings.Contains(listed, want) {
				t.Errorf("nft list ruleset lacks %q:\n%s", want, clip(listed))
			}
		}
		ns.Run(t, "nft", "-j", "list", "ruleset")
	})
}

// Whatever Services come and go, the kernel ends where Render of the last plan does, and does with packets what
// that plan says.
func TestIncrementalChangesInTheKernelEndWhereRenderDoes(t *testing.T) {
	for _, f := range model.Families {
		for name, config := range (builder{f}).configs() {
			rnd := rand.New(rand.NewPCG(5, uint64(f)))
			bl := builder{f}
			b, _, o := open(t, f)
			planner := plan.NewPlanner(config)
			apply(t, b, full(planner.Plan()))
			clock := time.Unix(1e9, 0)
			b.now = func() time.Time { return clock }
			for range nstest.Sized(12, 40) {
				var inputs []plan.Input
				for range 1 + rnd.IntN(6) {
					in := bl.input(rnd, rnd.IntN(12))
					if rnd.IntN(4) == 0 {
						in.Service, in.Slices = nil, nil
					}
					inputs = append(inputs, in)
				}
				apply(t, b, plan.Change{Config: config, Services: planner.Update(inputs)})
			}
			clock = clock.Add(idleTime)
			apply(t, b, partial(config))
			held := observe(t, o)
			differ(t, held, render1(t, planner.Plan()))
			agree(t, planner.Plan(), held, bl.packets(planner.Plan(), rnd, 200))
			if t.Failed() {
				t.Fatalf("%s, %s", f, name)
			}
		}
	}
}

// Of so many rules the kernel's answers don't fit into the buffer of an unprivileged user.
func TestAsManyClassesAsEndpointCounts(t *testing.T) {
	b, ns, o := open(t, model.IPv4)
	bl := builder{model.IPv4}
	var services []*plan.Service
	for i := range 251 {
		services = append(services, bl.service(i, bl.endpoints(0, i), model.TCP))
	}
	p := planOf(bl.config(), services...)
	apply(t, b, full(p))
	r := observe(t, o)
	differ(t, r, render1(t, p))
	if len(r.Chains) != 250+8 {
		t.Errorf("%d chains", len(r.Chains))
	}
	ns.Run(t, "nft", "list", "ruleset")
}

// othersTables hold what svcproxy never makes, in the other families too.
const othersTables = `
add table inet svcproxy
add chain inet svcproxy c { type filter hook input priority 0; policy accept; }
add rule inet svcproxy c ct state invalid drop
add table arp svcproxy
add chain arp svcproxy c { type filter hook input priority 0; policy accept; }
add table bridge b
add chain bridge b c { type filter hook prerouting priority 0; policy accept; }
add rule bridge b c ether type ip accept
add table netdev n
add table ip a
add counter ip a hits
add quota ip a much { over 25 mbytes; }
add limit ip a often { rate 10/second; }
add set ip a named { type ifname . inet_service; flags interval; }
add element ip a named { "eth*" . 1-2 }
add set ip a timed { type ipv4_addr; flags dynamic,timeout; timeout 1h; size 10; }
add map ip a marks { type mark : verdict; }
add element ip a marks { 1 comment "x" : accept }
add chain ip a c { type filter hook prerouting priority -300; policy accept; }
add rule ip a c meta mark vmap @marks
add rule ip a c iifname . tcp dport @named counter name hits
add rule ip a c limit rate 5/second update @timed { ip saddr }
add rule ip a c ip saddr 10.1.2.3 ip ttl 1-5 ct state new accept
`

func TestOthersTablesAreNeitherReadNorTouched(t *testing.T) {
	p := samples(model.IPv4)["usual"]
	b, ns, o := open(t, model.IPv4)
	ns.RunInput(t, othersTables, "nft", "-f", "-")
	before := ns.Run(t, "nft", "list", "ruleset")
	if r := observe(t, o); r.Exists {
		t.Errorf("taken for svcproxy's table: %s", r.Text())
	}
	apply(t, b, full(p))
	differ(t, observe(t, o), render1(t, p))
	ns.RunInput(t, "add counter ip svcproxy theirs\nadd quota ip svcproxy theirs2 { over 1 mbytes }\n", "nft", "-f", "-")
	differ(t, observe(t, o), render1(t, p))
	if err := Cleanup(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if after := ns.Run(t, "nft", "list", "ruleset"); after != before {
		t.Errorf("others' tables changed\nbefore %s\nafter %s", before, after)
	}
}

// All tables share the ruleset's generation, which tells a reader whether somebody has committed meanwhile.
func TestATableIsReadWhileOthersCommitAllTheTime(t *testing.T) {
	b, ns, o := open(t, model.IPv4)
	var tables strings.Builder
	for i := range 2000 { // too many for one message, so that this list is interrupted too
		fmt.Fprintf(&tables, "add table ip other-%d\n", i)
	}
	ns.RunInput(t, tables.String(), "nft", "-f", "-")
	bl := builder{model.IPv4}
	var services []*plan.Service
	for i := range 500 {
		services = append(services, bl.service(i, bl.endpoints(i, 10), model.TCP))
	}
	p := planOf(bl.config(), services...)
	apply(t, b, full(p))

	other, err := New(Options{Family: model.IPv6, NetNS: o.NetNS})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	six := builder{model.IPv6}
	apply(t, other, full(planOf(six.config())))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		var err error
		for i := 0; ctx.Err() == nil && err == nil; i++ {
			_, err = other.Apply(t.Context(), partial(six.config(), six.service(1, six.endpoints(i, 1), model.TCP)))
		}
		done <- err
	}()
	for range 3 {
		differ(t, observe(t, o), render1(t, p))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
