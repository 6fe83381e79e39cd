package peer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"svcproxy/model"
	"svcproxy/test/controlplane"
	"svcproxy/test/nstest"
)

// manyServices are so many further Services that the frontends no longer fit one flat chain.
const manyServices = 130

// newFullCluster has Services of every class, and many more.
func newFullCluster(t *testing.T, more int) *cluster {
	t.Helper()
	c := newCluster(t)
	for i, s := range subjects {
		c.apply(t, s.service(i+1), s.slices())
	}
	for i := range more {
		s := subject{name: fmt.Sprintf("more-%d", i), change: func(s *corev1.Service) { onlyClusterIP(s, 1000+i) }, endpoints: at(here, elsewhere)}
		c.apply(t, s.service(1), s.slices())
	}
	return c
}

// onlyClusterIP leaves a Service ClusterIPs alone, those with a number that is below 16,000.
func onlyClusterIP(s *corev1.Service, n int) {
	s.Spec.Type, s.Spec.ExternalIPs, s.Status = corev1.ServiceTypeClusterIP, nil, corev1.ServiceStatus{}
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.%d.%d", n/250, n%250+1), fmt.Sprintf("fd00:10:96::%d", n)}
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = 0
	}
}

// A real kube-proxy takes the node over from svcproxy's iptables mode: it programs without an error, then and
// after changes, what it programs where nobody was before it, and traffic goes the same ways.
func TestGoingBackToKubeProxy(t *testing.T) {
	t.Parallel()
	c := newFullCluster(t, manyServices)
	flags := flagsOf(runs[0].flags)
	went, fresh := c.newNode(t, "svcproxy, then kube-proxy"), c.newNode(t, "kube-proxy alone")
	c.start(t, went, svcproxy, "iptables", flags...)
	c.settle(t, went)
	if rules := went.run(t, "iptables-save", "-t", "nat"); !strings.Contains(rules, "service portals in this prefix") {
		t.Fatal("the frontends are in one flat chain: this shows less than it should")
	}
	went.proxy.Stop(t)

	c.start(t, went, kubeProxy, "iptables", flags...)
	c.start(t, fresh, kubeProxy, "iptables", flags...)
	c.settle(t, went, fresh)
	sameProbes(t, fresh, went)
	for _, gone := range []string{"plain", "external-here", "ranges", "affinity", "more-0"} {
		c.remove(t, gone)
	}
	c.settle(t, went, fresh)
	sameProbes(t, fresh, went)
	for _, metric := range []string{"iptables_restore_failures_total", "iptables_partial_restore_failures_total"} {
		if failures := went.failures(t, metric); len(failures) > 0 {
			t.Errorf("kube-proxy after svcproxy: %v", failures)
		}
	}
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		var left []string
		before := chains(fresh.run(t, save))
		for _, chain := range chains(went.run(t, save)) {
			if !slices.Contains(before, chain) {
				left = append(left, chain)
			}
		}
		// It is in both tables, leads nowhere and nothing leads to it.
		if want := []string{"filter SVCPROXY-CANARY", "nat SVCPROXY-CANARY"}; !slices.Equal(left, want) {
			t.Errorf("%s: svcproxy's chains that kube-proxy leaves are %v, want %v", save, left, want)
		}
	}
}

// svcproxy takes the node over from kube-proxy, and first shows what kube-proxy programmed.
func TestTakingOverFromKubeProxy(t *testing.T) {
	t.Parallel()
	c := newFullCluster(t, 0)
	flags := flagsOf(runs[0].flags)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			taken, fresh := c.newNode(t, "kube-proxy, then svcproxy "+mode), c.newNode(t, "svcproxy "+mode+" alone")
			c.start(t, taken, kubeProxy, mode, flags...)
			c.start(t, fresh, svcproxy, mode, flags...)
			c.settle(t, taken, fresh)
			sameDump(t, taken, fresh)
			taken.proxy.Kill()
			if mode == "nftables" {
				// Its table is its own, and would go on translating beside svcproxy's.
				taken.run(t, controlplane.Program(svcproxy), "cleanup", "--all")
			}
			c.start(t, taken, svcproxy, mode, flags...)
			c.settle(t, taken, fresh)
			sameProbes(t, fresh, taken)
		})
	}
}

// sameProbes asks both nodes everything and finds no difference.
func sameProbes(t *testing.T, want, got *node) {
	t.Helper()
	for _, f := range model.Families[:nstest.Sized(1, 2)] {
		each(t, probes(f), func(p probe) {
			a, b, err := observe(p, want, got)
			if err != nil {
				t.Error(err)
			} else if !a.equal(b) {
				t.Errorf("%s: %s: %s; %s: %s", p, want.name, a, got.name, b)
			}
		})
	}
}

// run runs a program on the node and returns its output.
func (n *node) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	return (&nstest.NS{Netns: n.Node.Netns}).Run(t, name, args...)
}

// chains lists the chains of what iptables-save prints, each after its table.
func chains(rules string) (all []string) {
	table := ""
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		if rest, ok := strings.CutPrefix(line, ":"); ok {
			name, _, _ := strings.Cut(rest, " ")
			all = append(all, table+" "+name)
		}
	}
	slices.Sort(all)
	return all
}

// failures returns the lines of kube-proxy's metrics that count what failed.
func (n *node) failures(t *testing.T, metric string) (lines []string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.Node.Netns.Dial}, Timeout: 10 * time.Second}
	r, err := client.Get("http://127.0.0.1:10249/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	// A failure's counter is there from the first failure on.
	if !strings.Contains(string(body), "kubeproxy_sync_proxy_rules_duration_seconds_count") {
		t.Fatal("these are no metrics of kube-proxy's synchronisation")
	}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "kubeproxy_sync_proxy_rules_"+metric) && !strings.HasSuffix(line, " 0\n") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// sameDump finds that dump shows the same Services, frontends and endpoints of both nodes, though one's are
// kube-proxy's.
func sameDump(t *testing.T, theirs, ours *node) {
	t.Helper()
	a, b := theirs.dump(t), ours.dump(t)
	for line := range a {
		if !b[line] {
			t.Errorf("dump shows of kube-proxy's rules alone: %s", line)
		}
	}
	for line := range b {
		if !a[line] {
			t.Errorf("dump does not show of kube-proxy's rules: %s", line)
		}
	}
}

// dump returns each Service's frontends and endpoints, as far as all backends tell them apart.
func (n *node) dump(t *testing.T) map[string]bool {
	t.Helper()
	var view model.View
	out := n.run(t, controlplane.Program(svcproxy), "dump", "-o", "json")
	if err := json.NewDecoder(bytes.NewBufferString(out)).Decode(&view); err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for _, s := range view.Services {
		if !strings.HasPrefix(s.Name, namespace+"/") || strings.HasPrefix(s.Name, namespace+"/kubernetes:") {
			continue
		}
		for _, f := range s.Frontends {
			lines[fmt.Sprintf("%s %s %s:%d %s", s.Name, s.Protocol, f.Address, f.Port, f.Action)] = true
		}
		for _, e := range s.Endpoints {
			lines[fmt.Sprintf("%s %s to %s:%d", s.Name, s.Protocol, e.Address, e.Port)] = true
		}
	}
	return lines
}
