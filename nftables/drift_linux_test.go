package nftables

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/nstest"
)

// vandalism are changes that somebody else might make to the table of IPv4 samples, in nft's words.
var vandalism = map[string]string{
	"table deleted":               "delete table ip svcproxy",
	"table dormant":               "add table ip svcproxy { flags dormant; }",
	"rule deleted":                "flush chain ip svcproxy prerouting",
	"rule added":                  "add rule ip svcproxy output counter",
	"rule inserted":               "insert rule ip svcproxy lb-2 accept",
	"rule in an unknown chain":    "add chain ip svcproxy theirs; add rule ip svcproxy theirs accept",
	"a base chain":                "add chain ip svcproxy theirs { type filter hook forward priority 0; policy drop; }",
	"rules reordered":             "flush chain ip svcproxy no-endpoints; add rule ip svcproxy no-endpoints reject; add rule ip svcproxy no-endpoints meta l4proto tcp reject with tcp reset",
	"rule changed":                "flush chain ip svcproxy postrouting; add rule ip svcproxy postrouting ct status dnat ip saddr . ip daddr @hairpin masquerade",
	"rule with another set":       "flush chain ip svcproxy output; add rule ip svcproxy output ip daddr @service-cidrs goto no-endpoints",
	"a rule of unknown kind":      "insert rule ip svcproxy postrouting limit rate 1/second accept",
	"policy changed":              "add chain ip svcproxy prerouting { policy drop; }",
	"chain deleted":               "delete element ip svcproxy services { 10.96.0.2 . tcp . 80 }; delete chain ip svcproxy lb-2",
	"service deleted":             "delete element ip svcproxy services { 10.96.0.1 . udp . 80 }",
	"service flushed":             "flush map ip svcproxy services",
	"service added":               "add element ip svcproxy services { 10.96.0.77 . udp . 80 : drop }",
	"service's verdict changed":   "delete element ip svcproxy services { 10.96.0.1 . udp . 80 }; add element ip svcproxy services { 10.96.0.1 . udp . 80 comment \"test/svc-1:pUDP\" : goto lb-2 }",
	"service's comment changed":   "delete element ip svcproxy services { 10.96.0.1 . udp . 80 }; add element ip svcproxy services { 10.96.0.1 . udp . 80 : goto lb-1 }",
	"cluster IP deleted":          "delete element ip svcproxy cluster-ips { 10.96.0.1 }",
	"hairpin pair added":          "add element ip svcproxy hairpin { 10.1.1.1 . 10.1.1.2 }",
	"pod range deleted":           "flush set ip svcproxy pod-nets",
	"pod range widened":           "add element ip svcproxy pod-nets { 11.0.0.0/8 }",
	"service range deleted":       "delete element ip svcproxy service-cidrs { 10.96.0.0/12 }",
	"outsiders led elsewhere":     "add element ip svcproxy services-ext { 10.96.0.1 . tcp . 80 : drop }",
	"a balancer limited":          "add element ip svcproxy lb-limited { 10.96.0.1 . tcp . 80 }",
	"a source let in":             "add element ip svcproxy lb-source-ranges { 10.96.0.1 . tcp . 80 . 10.0.0.0/8 }",
	"sources all let in":          "flush chain ip svcproxy source-ranges",
	"sources not looked at":       "flush chain ip svcproxy prerouting-filter",
	"a list of clients":           "add element ip svcproxy affinity-lists { 10.96.0.1 . tcp . 80 . 0x0 : 0x5 }",
	"a pick for clients":          "add element ip svcproxy affinity-picks { 10.96.0.1 . tcp . 80 . 0x0 : 0x5 }",
	"an endpoint for clients":     "add element ip svcproxy affinity-endpoints { 10.96.0.1 . tcp . 80 . 0x5 : 10.1.1.1 . 80 }",
	"what was learned deleted":    "delete map ip svcproxy affinity",
	"no address has node ports":   "flush set ip svcproxy node-port-nets",
	"node ports go nowhere":       "flush chain ip svcproxy node-ports",
	"a node port added":           "add element ip svcproxy services { 0.0.0.0 . tcp . 30099 : goto lb-2 }",
	"a set of their own":          "add set ip svcproxy theirs { type ether_addr; }",
	"a rule that uses their set":  "add set ip svcproxy theirs { type ipv4_addr; }; add rule ip svcproxy prerouting ip saddr @theirs drop",
	"an element for everything":   "delete table ip svcproxy; add table ip svcproxy; add map ip svcproxy services { typeof ip daddr . meta l4proto . th dport : verdict; }; add element ip svcproxy services { * : drop }",
	"a set of another kind":       "delete table ip svcproxy; add table ip svcproxy; add set ip svcproxy services { type ether_addr; }",
	"endpoints that may time out": "delete table ip svcproxy; add table ip svcproxy; add map ip svcproxy endpoints { typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport; timeout 1h; }",
}

// harmless changes leave something that does nothing, which goes a while later.
var harmless = map[string]bool{"a set of their own": true}

func vandalise(t *testing.T, ns *nstest.NS, commands string) {
	t.Helper()
	ns.RunInput(t, strings.ReplaceAll(commands, "; add ", "\nadd "), "nft", "-f", "-")
}

func TestEveryKindOfDriftIsCountedAndRepaired(t *testing.T) {
	p := samples(model.IPv4)["usual"]
	for what, commands := range vandalism {
		t.Run(what, func(t *testing.T) {
			b, ns, o := open(t, model.IPv4)
			now := time.Unix(1e9, 0)
			b.now = func() time.Time { return now }
			apply(t, b, full(p))
			vandalise(t, ns, commands)
			if observe(t, o).Equal(render1(t, p)) {
				t.Fatal("the change is not seen")
			}
			if res := apply(t, b, full(p)); (res.Drift == 0 || res.Example == "") && !harmless[what] {
				t.Errorf("not counted: %+v", res)
			}
			now = now.Add(idleTime)
			apply(t, b, partial(p.Config))
			differ(t, observe(t, o), render1(t, p))
			if res := apply(t, b, full(p)); res.Drift != 0 || res.Writes != 0 {
				t.Errorf("after the repair: %+v", res)
			}
		})
	}
}

// watch starts to watch and returns what is seen.
func watch(t *testing.T, b *Backend) <-chan string {
	t.Helper()
	seen, done := make(chan string, 1000), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- b.Watch(ctx, func(what string) { seen <- what }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	awaitWatch(t, b)
	return seen
}

func awaitWatch(t *testing.T, b *Backend) {
	t.Helper()
	nstest.Eventually(t, 5*time.Second, func() error {
		b.watcher.mu.Lock()
		defer b.watcher.mu.Unlock()
		if b.watcher.conn == nil {
			return fmt.Errorf("not watching yet")
		}
		return nil
	})
}

func TestWatchNoticesEveryKindOfDriftWithinASecond(t *testing.T) {
	p := samples(model.IPv4)["usual"]
	for what, commands := range vandalism {
		t.Run(what, func(t *testing.T) {
			b, ns, _ := open(t, model.IPv4)
			apply(t, b, full(p))
			seen := watch(t, b)
			vandalise(t, ns, commands)
			select {
			case got := <-seen:
				if !strings.Contains(got, "nft (process ") {
					t.Errorf("author missing: %s", got)
				}
			case <-time.After(time.Second):
				t.Error("not noticed")
			}
		})
	}
}

func TestWatchIgnoresItsOwnCommitsAndOthersTables(t *testing.T) {
	bl := builder{model.IPv4}
	p := samples(model.IPv4)["usual"]
	b, ns, o := open(t, model.IPv4)
	seen := watch(t, b)
	apply(t, b, full(p))
	if err := b.kernel.reopen(); err != nil {
		t.Fatal(err)
	}
	apply(t, b, partial(p.Config, bl.service(1, bl.endpoints(0, 4), model.TCP)))
	apply(t, b, full(p))

	o6 := Options{Family: model.IPv6, NetNS: o.NetNS}
	six, err := New(o6)
	if err != nil {
		t.Fatal(err)
	}
	defer six.Close()
	apply(t, six, full(samples(model.IPv6)["usual"]))
	ns.Run(t, "nft", "add table ip kube-proxy; add chain ip kube-proxy svcproxy; add table inet svcproxy; add chain inet svcproxy x")

	vandalise(t, ns, "flush set ip svcproxy cluster-ips")
	select {
	case got := <-seen:
		if !strings.HasPrefix(got, "element deleted from cluster-ips") {
			t.Errorf("seen: %s", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("what others did to the table is not noticed")
	}
}

func TestABigCommitOfItsOwnDoesNotOverflowTheWatch(t *testing.T) {
	b, _, _ := open(t, model.IPv4)
	seen := watch(t, b)
	if err := b.watcher.conn.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	bl := builder{model.IPv4}
	apply(t, b, full(planOf(bl.config(), bl.service(1, bl.endpoints(0, 5000), model.TCP))))
	if len(seen) > 0 {
		t.Errorf("seen: %s", <-seen)
	}
}

func TestWatchTellsThatNotificationsWereLost(t *testing.T) {
	b, ns, _ := open(t, model.IPv4)
	apply(t, b, full(samples(model.IPv4)["usual"]))
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan string), make(chan error)
	go func() { done <- b.Watch(ctx, func(what string) { seen <- what }) }() // waits until the test reads
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	awaitWatch(t, b)
	if err := b.watcher.conn.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	vandalise(t, ns, "flush set ip svcproxy cluster-ips")
	for range 100 {
		ns.Run(t, "nft", "add table ip other; delete table ip other")
	}
	if first := <-seen; strings.Contains(first, "lost") {
		t.Errorf("lost at once: %s", first)
	}
	select {
	case got := <-seen:
		if !strings.Contains(got, "lost") {
			t.Errorf("seen: %s", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("not noticed")
	}
}

func TestASmallSocketBufferStillTakesEverything(t *testing.T) {
	for _, f := range model.Families {
		ns := nstest.New(t)
		o := Options{Family: f, NetNS: ns.Path(), WriteBuffer: 16 << 10}
		b, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		bl := builder{f}
		var services []*plan.Service
		for i := range 600 {
			services = append(services, bl.service(i, bl.endpoints(i, i%12), model.TCP, model.UDP))
		}
		p := planOf(bl.config(), services...)
		apply(t, b, full(p))
		differ(t, observe(t, o), render1(t, p))
		next := planOf(bl.config(), services[100:300]...)
		apply(t, b, full(next))
		if d := Diff(observe(t, o), render1(t, next)); d.Writes() != 0 {
			t.Errorf("after the second plan: %s", d.Example())
		}
	}
}

func TestCleanupDeletesTheTableAlone(t *testing.T) {
	b, ns, o := open(t, model.IPv4)
	if err := Cleanup(t.Context(), o); err != nil {
		t.Errorf("without a table: %v", err)
	}
	apply(t, b, full(samples(model.IPv4)["usual"]))
	ns.Run(t, "nft", "add table ip other")
	if err := Cleanup(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(ns.Run(t, "nft", "list", "tables")); got != "table ip other" {
		t.Errorf("left: %s", got)
	}
	if r := observe(t, o); r.Exists || r.Rules() != 0 {
		t.Errorf("observed: %+v", r)
	}
}
