package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/nstest"
)

// node is a network namespace with a Backend.
type node struct {
	*nstest.NS
	options Options
	backend *Backend
}

// command returns the name of an iptables program for the node's family and kernel API.
func (n *node) command(suffix string) string {
	name := n.options.Binary
	if n.options.Family == model.IPv6 {
		name = "ip6" + strings.TrimPrefix(name, "ip")
	}
	return name + suffix
}

func (n *node) iptables(t *testing.T, args string) {
	t.Helper()
	n.Run(t, n.command(""), append([]string{"--wait"}, strings.Fields(args)...)...)
}

func (n *node) apply(t *testing.T, c plan.Change) plan.Result {
	t.Helper()
	result, err := n.backend.Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// holds fails the test unless the kernel holds exactly a plan.
func (n *node) holds(t *testing.T, p *plan.Plan) {
	t.Helper()
	want, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Observe(t.Context(), n.options)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want) {
		count, example := drift(want, got)
		t.Fatalf("kernel and plan differ in %d rules, such as %s", count, example)
	}
}

func newNode(t *testing.T, f model.Family, binary string) *node {
	t.Helper()
	ns := nstest.New(t)
	n := &node{NS: ns, options: Options{Family: f, NetNS: ns.Path(), Binary: binary, CanaryPeriod: 50 * time.Millisecond}}
	var err error
	if n.backend, err = New(n.options); err != nil {
		t.Fatal(err)
	}
	return n
}

// everywhere runs a test on both kernel APIs and for both families.
func everywhere(t *testing.T, test func(t *testing.T, n *node)) {
	for _, binary := range []string{"iptables-legacy", "iptables-nft"} {
		for _, f := range model.Families {
			t.Run(fmt.Sprintf("%s/%s", binary, f), func(t *testing.T) { test(t, newNode(t, f, binary)) })
		}
	}
}

func TestKernelHoldsWhatIsRendered(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		f := n.options.Family
		p := planOf(f, some(f)...)
		n.apply(t, full(p))
		n.holds(t, p)
		if again := n.apply(t, full(p)); again != (plan.Result{}) {
			t.Errorf("nothing changed, yet: %+v", again)
		}
		odd := service(f, 9, 1)
		odd.Name.Name = strings.Repeat(`a"b'c\d e`+"\n", 60)
		odd.Ports[0].Name.Service = odd.Name
		p.Services[odd.Name] = odd
		n.apply(t, plan.Change{Config: p.Config, Services: map[model.ServiceName]*plan.Service{odd.Name: odd}})
		n.holds(t, p)
		everything := netip.PrefixFrom(vip(f, 1), 0)
		for _, pods := range [][]netip.Prefix{{everything}, append(config(f).Detector.Prefixes, everything)} {
			p.Config.Detector.Prefixes = pods
			n.apply(t, full(p))
			if again := n.apply(t, full(p)); again != (plan.Result{}) {
				t.Errorf("pods %v: nothing changed, yet: %+v", pods, again)
			}
		}
	})
}

func TestIncrementalChangesReachTheKernel(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		f := n.options.Family
		p := planOf(f, some(f)...)
		n.apply(t, full(p))
		for i := range flatLimit + 20 {
			p.Services[service(f, 100+i, i%3).Name] = service(f, 100+i, i%3)
		}
		n.apply(t, full(p))
		n.holds(t, p)
		for round := range 6 {
			changed := map[model.ServiceName]*plan.Service{}
			for i := range 30 {
				s := service(f, 100+i*7+round, (i+round)%4)
				if changed[s.Name] = s; (i+round)%5 == 0 {
					changed[s.Name] = nil
				}
			}
			n.apply(t, plan.Change{Config: p.Config, Services: changed})
			for name, s := range changed {
				if p.Services[name] = s; s == nil {
					delete(p.Services, name)
				}
			}
			n.holds(t, p)
		}
		if result := n.apply(t, full(p)); result != (plan.Result{}) {
			t.Errorf("incremental and full change differ: %+v", result)
		}
	})
}

func TestDriftIsFoundAndRepaired(t *testing.T) {
	svc := model.ServiceChain(kubeDNS(model.IPv4).Ports[0].Name)
	damages := map[string]string{
		"rule deleted":           "-t nat -D " + svc + " 2",
		"rule inserted":          "-t nat -I " + svc + " 1 -j RETURN",
		"rule changed":           "-t nat -R KUBE-MARK-MASQ 1 -j MARK --or-mark 0x8000",
		"probability changed":    "-t nat -R " + svc + " 2 -m statistic --mode random --probability 0.4 -j RETURN",
		"chain flushed":          "-t nat -F KUBE-SERVICES",
		"chain added":            "-t nat -N KUBE-SEP-ABCDEFGHIJKLMNOP",
		"jump deleted":           "-t nat -D PREROUTING 1",
		"forward jumps flushed":  "-t filter -F FORWARD",
		"reject deleted":         "-t filter -F KUBE-SERVICES",
		"table flushed":          "-t nat -F",
		"kube-proxy has been on": "-t filter -N KUBE-PROXY-CANARY",
	}
	everywhere(t, func(t *testing.T, n *node) {
		p := planOf(n.options.Family, some(n.options.Family)...)
		n.apply(t, full(p))
		for name, damage := range damages {
			n.iptables(t, damage)
			result := n.apply(t, full(p))
			if result.Drift == 0 || result.Example == "" {
				t.Errorf("%s: drift is not reported: %+v", name, result)
			}
			n.holds(t, p)
		}
	})
}

// iptables prints a mask that is no prefix as a mask, and a comment of two lines on two.
func TestRulesOfOthersInAnyFormAreNoHindrance(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		p := planOf(n.options.Family, some(n.options.Family)...)
		n.apply(t, full(p))
		mask := "10.0.0.1/255.0.0.255"
		if n.options.Family == model.IPv6 {
			mask = "fd00::1/ffff::ffff"
		}
		for _, rule := range [][]string{{"-s", mask}, {"-m", "comment", "--comment", "two\nlines"}} {
			n.Run(t, n.command(""), append([]string{"--wait", "-I", "INPUT", "-j", "ACCEPT"}, rule...)...)
			n.Run(t, n.command(""), append([]string{"--wait", "-t", "nat", "-I", "KUBE-SERVICES", "-j", "ACCEPT"}, rule...)...)
			if result := n.apply(t, full(p)); result.Drift != 1 {
				t.Errorf("%q: %+v", rule, result)
			}
			n.holds(t, p)
		}
	})
}

// iptables on the nf_tables kernel API prints nothing of a table that holds a rule which it does not know.
func TestATableThatIptablesCannotReadIsProgrammed(t *testing.T) {
	n := newNode(t, model.IPv4, "iptables-nft")
	p := planOf(model.IPv4, some(model.IPv4)...)
	n.apply(t, full(p))
	jumps := func() int {
		return strings.Count(n.Run(t, "nft", "list", "chain", "ip", "nat", "PREROUTING"), "jump KUBE-SERVICES")
	}
	n.Run(t, "nft", "add chain ip nat theirs; add rule ip nat theirs numgen random mod 2 == 1 accept")
	n.iptables(t, "-t nat -F KUBE-SERVICES")
	n.iptables(t, "-t nat -F PREROUTING")
	for range 2 {
		if result := n.apply(t, full(p)); result.Drift != 0 {
			t.Errorf("what cannot be read counts as drift: %+v", result)
		}
		if jumps() != 1 {
			t.Errorf("%d jumps", jumps())
		}
	}
	for what, err := range map[string]error{"Cleanup": Cleanup(t.Context(), n.options), "Observe": func() error {
		_, err := Observe(t.Context(), n.options)
		return err
	}()} {
		if !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	n.Run(t, "nft", "flush chain ip nat theirs")
	n.holds(t, p)
}

func TestFlushIsNoticed(t *testing.T) {
	for what, damage := range map[string][]string{
		"nat rules":       {"-t nat -F"},
		"filter rules":    {"-t filter -F"},
		"rules and chain": {"-t nat -F", "-t nat -X"},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(t *testing.T, n *node) {
				seen := make(chan string, 100)
				ctx, cancel := context.WithCancel(t.Context())
				watched := make(chan error, 1)
				go func() { watched <- n.backend.Watch(ctx, func(what string) { seen <- what }) }()
				n.apply(t, full(planOf(n.options.Family, some(n.options.Family)...)))
				for _, d := range damage {
					n.iptables(t, d)
				}
				select {
				case <-seen:
				case <-time.After(5 * time.Second):
					t.Error("the flush was not noticed")
				}
				cancel()
				if err := <-watched; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestCleanupRemovesOnlyWhatIsOurs(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		for _, foreign := range []string{
			"-t nat -N MINE", "-t nat -A MINE -j RETURN", "-t nat -A PREROUTING -j MINE",
			"-t filter -N KUBE-FIREWALL", "-t filter -A INPUT -j KUBE-FIREWALL", "-t filter -A KUBE-FIREWALL -j RETURN",
			"-t nat -N KUBE-MARK-DROP", "-t mangle -N KUBE-KUBELET-CANARY", "-t filter -N KUBE-ROUTER-FORWARD",
		} {
			n.iptables(t, foreign)
		}
		before := n.saved(t)
		if err := Cleanup(t.Context(), n.options); err != nil {
			t.Fatal(err)
		}
		n.apply(t, full(planOf(n.options.Family, some(n.options.Family)...)))
		n.apply(t, full(classes(n.options.Family)))
		saved := n.saved(t)
		for _, prefix := range slices.Concat(servicePrefixes, []string{chainExternal, chainFirewall, chainNodePorts}) {
			if !strings.Contains(saved, ":"+prefix) {
				t.Errorf("no %s was programmed", prefix)
			}
		}
		if err := Cleanup(t.Context(), n.options); err != nil {
			t.Fatal(err)
		}
		if after := n.saved(t); after != before {
			t.Errorf("left over or lost:\n%s\nbefore:\n%s", after, before)
		}
	})
}

// saved returns all tables without comments, which hold the time.
func (n *node) saved(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, table := range []string{"nat", "filter", "mangle"} {
		for line := range strings.Lines(n.Run(t, n.command("-save"), "-t", table)) {
			if line[0] == ':' {
				line, _, _ = strings.Cut(line, "[")
			}
			if line[0] != '#' {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return strings.Join(lines, "\n")
}

func TestCleanupLeavesKubeProxyAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		n.apply(t, full(planOf(n.options.Family, some(n.options.Family)...)))
		for _, table := range tableNames {
			n.iptables(t, "-t "+table+" -N KUBE-PROXY-CANARY")
		}
		want := strings.Count(n.saved(t), "-A ") - 2
		if err := Cleanup(t.Context(), n.options); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(n.saved(t), "-A "); got != want {
			t.Errorf("%d rules are left, want %d: all but those of the canaries", got, want)
		}
	})
}

func TestRefusedChangeLeavesTheKernelAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		f := n.options.Family
		p := planOf(f, some(f)...)
		n.apply(t, full(p))
		// Another Service is rejected from now on, which comes first and must be taken back.
		doomed, added, rejected := service(f, 3, 7), service(f, 50, 2), service(f, 4, 0)
		svc := model.ServiceChain(doomed.Ports[0].Name)
		n.iptables(t, "-t nat -N MINE")
		n.iptables(t, "-t nat -A MINE -j "+svc)
		before := n.saved(t)
		_, err := n.backend.Apply(t.Context(), plan.Change{Config: p.Config,
			Services: map[model.ServiceName]*plan.Service{doomed.Name: nil, added.Name: added, rejected.Name: rejected}})
		var refused *plan.RefusedError
		if !errors.As(err, &refused) {
			t.Fatalf("error is %v, want a RefusedError", err)
		}
		t.Log(err)
		if n.saved(t) != before {
			t.Error("the kernel took part of a refused change")
		}
		n.holds(t, p)

		// A full change sees who refers to the chain, and leaves it empty.
		delete(p.Services, doomed.Name)
		p.Services[added.Name] = added
		n.apply(t, full(p))
		if saved := n.saved(t); strings.Contains(saved, "-A "+svc) || !strings.Contains(saved, ":"+svc) {
			t.Error("the chain that a foreign rule refers to should be empty")
		}
		if again := n.apply(t, full(p)); again != (plan.Result{}) {
			t.Errorf("nothing changed, yet: %+v", again)
		}
	})
}

func TestUnavailable(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, f := range model.Families {
		if _, err := New(Options{Family: f}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: error is %v, want ErrUnavailable", f, err)
		}
	}
}

func TestDisabledIPv6IsUnavailable(t *testing.T) {
	ns := nstest.New(t)
	if err := ns.SetSysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Family: model.IPv6, NetNS: ns.Path()}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
	if _, err := os.Stat(ns.Path()); err != nil {
		t.Error(err)
	}
}

func TestHeldServicesKeepWhatTheyHad(t *testing.T) {
	n := newNode(t, model.IPv4, "iptables-legacy")
	kept, never := service(model.IPv4, 1, 3), service(model.IPv4, 2, 3)
	p := planOf(model.IPv4, kept, kubeDNS(model.IPv4))
	n.apply(t, full(p))
	c := full(planOf(model.IPv4, kubeDNS(model.IPv4)))
	c.Hold = map[model.ServiceName]bool{kept.Name: true, never.Name: true}
	n.apply(t, c)
	n.holds(t, p)
	n.apply(t, full(planOf(model.IPv4, kubeDNS(model.IPv4))))
	n.holds(t, planOf(model.IPv4, kubeDNS(model.IPv4)))
}

func TestGoldenFilesLoad(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		f := n.options.Family
		path := fmt.Sprintf("testdata/kube-dns.ipv%d", f)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n.RunInput(t, string(text), n.command("-restore"), "--test")
		n.RunInput(t, string(text), n.command("-restore"), "--noflush")
		n.holds(t, planOf(f, kubeDNS(f), service(f, 1, 0)))
	})
}

// TestKubeProxyIsReplaced starts on what kube-proxy left, of which nothing may stay in force but what
// kubelet owns.
func TestKubeProxyIsReplaced(t *testing.T) {
	text, err := os.ReadFile("testdata/kube-proxy.ipv4")
	if err != nil {
		t.Fatal(err)
	}
	for _, binary := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(binary, func(t *testing.T) {
			n := newNode(t, model.IPv4, binary)
			n.RunInput(t, string(text), n.command("-restore"))
			p := planOf(model.IPv4, some(model.IPv4)...)
			if result := n.apply(t, full(p)); result.Drift != 0 {
				t.Errorf("what was there before the first change is no drift: %+v", result)
			}
			n.holds(t, p)
			saved := n.saved(t)
			for _, gone := range []string{"KUBE-EXT-", "KUBE-FW-", "KUBE-SVL-", "KUBE-PROXY-CANARY", "ns5/svc5"} {
				if strings.Contains(saved, gone) {
					t.Errorf("%s is left", gone)
				}
			}
			if !strings.Contains(saved, "-A KUBE-FIREWALL ! -s 127.0.0.0/8") {
				t.Error("kubelet's KUBE-FIREWALL is gone")
			}
		})
	}
}

// TestKubeProxyCanTakeOver does what kube-proxy does at its first sync: it looks for its jumps, rewrites the
// chains that it always has, and deletes those whose names it knows.
func TestKubeProxyCanTakeOver(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		f := n.options.Family
		p := planOf(f)
		p.Config.Detector.Prefixes = append(p.Config.Detector.Prefixes, host(pod(f, 0, 0)))
		for i := range flatLimit + 50 {
			s := service(f, i, i%3)
			p.Services[s.Name] = s
		}
		n.apply(t, full(p))
		for _, jump := range [][]string{
			{"nat", "PREROUTING", "-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"},
			{"nat", "OUTPUT", "-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"},
			{"nat", "POSTROUTING", "-m", "comment", "--comment", "kubernetes postrouting rules", "-j", "KUBE-POSTROUTING"},
			{"filter", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"},
			{"filter", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"},
			{"filter", "FORWARD", "-m", "comment", "--comment", "kubernetes forwarding rules", "-j", "KUBE-FORWARD"},
		} {
			n.Run(t, n.command(""), append([]string{"--wait", "-t", jump[0], "-C", jump[1]}, jump[2:]...)...)
		}
		var flush, remove strings.Builder
		flush.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n")
		nat, _, _ := strings.Cut(n.saved(t), "COMMIT")
		for line := range strings.Lines(nat) {
			chain, _, _ := strings.Cut(strings.TrimPrefix(line, ":"), " ")
			for _, prefix := range servicePrefixes {
				if line[0] == ':' && strings.HasPrefix(chain, prefix) {
					fmt.Fprintf(&flush, ":%s - [0:0]\n", chain)
					fmt.Fprintf(&remove, "-X %s\n", chain)
				}
			}
		}
		n.RunInput(t, flush.String()+remove.String()+"COMMIT\n", n.command("-restore"), "--noflush", "--counters")
		if nat, _, _ = strings.Cut(n.saved(t), "COMMIT"); strings.Contains(nat, ":KUBE-SVC-") {
			t.Error("chains of Services are left")
		}
	})
}
