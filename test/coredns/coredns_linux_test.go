package coredns

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"svcproxy/proxier/local"
	"svcproxy/test/controlplane"
	"svcproxy/test/nstest"
)

var (
	first  = types.NamespacedName{Namespace: "kube-system", Name: "coredns-a"}
	second = types.NamespacedName{Namespace: "kube-system", Name: "coredns-b"}
	client = types.NamespacedName{Namespace: "default", Name: "client"}
	db0    = types.NamespacedName{Namespace: "default", Name: "db-0"}
	db1    = types.NamespacedName{Namespace: "default", Name: "db-1"}
)

var modes = []string{"nftables", "iptables"}

// Two pods of CoreDNS, as kubeadm installs it, are the cluster's DNS: they find the API server and are found through
// svcproxy alone. A plain `go test ./...`, which must be quick, runs none of this: by kubeadm's manifest, the pods alone
// take ten seconds to be ready.
func TestCoreDNS(t *testing.T) {
	for _, mode := range modes[:nstest.Sized(0, len(modes))] {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, mode)
			c.awaitAPI()
			c.createAccount()
			c.apply("cluster.yaml", map[string][]string{"coredns": {first.Name, second.Name}})
			c.apply("workloads.yaml", nil)
			c.awaitReady(first, second, client, db0, db1)
			c.awaitShares(first, second)

			c.checkAnswers(t)
			c.checkShares(t)
			c.checkKill(t)
			c.checkDeletion(t)
			c.proxy.Stop(t)
		})
	}
}

// What kubeadm installs is taken as it is.
func TestManifestsAreTaken(t *testing.T) {
	m, err := local.Load([]string{"testdata"})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Pods) != 4 || len(m.Services) != 4 || len(m.ConfigMaps) != 1 {
		t.Errorf("%d pods, %d Services, %d config maps", len(m.Pods), len(m.Services), len(m.ConfigMaps))
	}
}

// question is what the client asks, and what dig +short prints then. The weights of SRV records are CoreDNS' own: 100
// divided by the number of addresses of both families.
type question struct {
	ask  string
	want []string // in order
}

func (c *cluster) questions() []question {
	a, b := c.addrs(db0), c.addrs(db1)
	arpa := func(i int) string { return "-x " + a[i].String() }
	return []question{
		{"kubernetes.default.svc.cluster.local", []string{"10.96.0.1"}},
		{"+search web", []string{"10.96.0.80"}},
		{"+search web AAAA", []string{"fd00:10:96::80"}},
		{"+search web.default", []string{"10.96.0.80"}},
		{"+search kube-dns.kube-system.svc", []string{"10.96.0.10"}},
		{"+search kube-dns.kube-system.svc AAAA", []string{"fd00:10:96::a"}},
		{"+search db", []string{a[0].String(), b[0].String()}},
		{"+search db AAAA", []string{a[1].String(), b[1].String()}},
		{"+search db-1.db", []string{b[0].String()}},
		{"+search _pg._tcp.db SRV", []string{"0 25 5432 db-0.db.default.svc.cluster.local.", "0 25 5432 db-1.db.default.svc.cluster.local."}},
		{"_http._tcp.web.default.svc.cluster.local SRV", []string{"0 50 80 web.default.svc.cluster.local."}},
		{"-x 10.96.0.80", []string{"web.default.svc.cluster.local."}},
		{"-x fd00:10:96::a", []string{"kube-dns.kube-system.svc.cluster.local."}},
		{arpa(0), []string{"db-0.db.default.svc.cluster.local."}},
		{arpa(1), []string{"db-0.db.default.svc.cluster.local."}},
		{"dns-version.cluster.local TXT", []string{`"1.1.0"`}},
		{"10-1-2-3.default.pod.cluster.local", []string{"10.1.2.3"}},
		{"elsewhere.default.svc.cluster.local", []string{"192.0.2.1", "www.example.com."}},
		{"+search www.example.com", []string{"192.0.2.1"}},
	}
}

// checkAnswers asks everything over UDP and TCP, and by both of the Service's addresses.
func (c *cluster) checkAnswers(t *testing.T) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			for _, q := range c.questions() {
				got, err := c.short(append([]string{family, transport}, strings.Fields(q.ask)...)...)
				if want := strings.Join(q.want, "\n"); err != nil || got != want {
					t.Errorf("dig %s %s %s: %v, got\n%s\nwant\n%s", family, transport, q.ask, err, got, want)
				}
			}
			for name, status := range map[string]string{
				"nothing.default.svc.cluster.local A":   "NXDOMAIN",
				"web.default.svc.cluster.local MX":      "NOERROR", // and no answer
				"nothing.example.com A":                 "NXDOMAIN",
				"1.0.0.127.in-addr.arpa PTR":            "NXDOMAIN", // the upstream's answer
				"_no._tcp.db.default.svc.cluster.local": "NXDOMAIN",
			} {
				out, err := c.dig(append([]string{family, transport, "+tries=1", "+time=5"}, strings.Fields(name)...)...)
				if err != nil || !strings.Contains(out, "status: "+status+",") || !strings.Contains(out, "ANSWER: 0,") {
					t.Errorf("dig %s %s %s: %v, want %s without an answer\n%s", family, transport, name, err, status, out)
				}
			}
		}
	}
}

// awaitShares waits until these pods, and no others, answer. Of 20 fair choices between two, one gets none twice in a
// million times; then the next look finds it.
func (c *cluster) awaitShares(pods ...types.NamespacedName) {
	c.Helper()
	const count = 20
	controlplane.Await(c, 60*time.Second, func() error {
		by, err := c.shares(count, "+notcp", pods...)
		if err != nil {
			return err
		}
		sum := 0
		for pod, n := range by {
			if sum += n; n == 0 {
				return fmt.Errorf("%s answered none of %d queries: %v", pod, count, by)
			}
		}
		if sum < count {
			return fmt.Errorf("%v answered fewer than %d queries", by, count)
		}
		return nil
	}, c.proxy)
}

// checkShares: of 60 fair choices between two, one gets fewer than 10 once in 30 million times.
func (c *cluster) checkShares(t *testing.T) {
	t.Helper()
	const count, least = 60, 10
	for _, transport := range []string{"+notcp", "+tcp"} {
		by, err := c.shares(count, transport, first, second)
		if err != nil {
			t.Fatal(err)
		}
		// No more than the queries: the loop plugin has asked its own long before.
		if a, b := by[first.Name], by[second.Name]; a < least || b < least || a+b != count {
			t.Errorf("%s: %d queries were answered by %v", transport, count, by)
		}
	}
}

// checkKill kills the program of one pod. Until svcproxy knows, queries to it are refused or, while it starts again, not
// answered, so that a client has to ask again; from then on nothing is lost, and the pod is one of the two again when it
// is ready.
func (c *cluster) checkKill(t *testing.T) {
	t.Helper()
	inside, err := c.kubelet.Inspect(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(inside.Containers[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 20*time.Second, func() error { return c.allAnswered(20) })
	controlplane.Await(t, time.Minute, func() error {
		if err := c.allAnswered(5); err != nil {
			t.Fatalf("after one of two was killed, and withdrawn: %v", err)
		}
		pod, _ := c.kubelet.Pod(first)
		if s := pod.Status.ContainerStatuses[0]; s.RestartCount != 1 || !s.Ready {
			return fmt.Errorf("%d restarts, ready: %v", s.RestartCount, s.Ready)
		}
		return nil
	}, c.proxy)
	c.awaitShares(first, second)
}

// allAnswered sends queries over UDP and TCP, each once, and tells whether all were answered.
func (c *cluster) allAnswered(count int) error {
	for _, transport := range []string{"+notcp", "+tcp"} {
		if err := c.ask(count, transport); err != nil {
			return err
		}
	}
	return nil
}

// checkDeletion deletes a pod, which goes on to answer until it is out of the Service: no query is lost, though none is
// sent twice.
func (c *cluster) checkDeletion(t *testing.T) {
	t.Helper()
	gone := make(chan error, 1)
	go func() { gone <- c.remove(context.WithoutCancel(t.Context()), second) }()
	asked := 0
	for over := false; !over; asked++ {
		select {
		case err := <-gone:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		if err := c.allAnswered(5); err != nil {
			t.Errorf("while one of two is deleted, after %d queries: %v", 10*asked, err)
		}
	}
	c.awaitShares(first)
	t.Logf("%d queries were answered while a pod was deleted", 10*asked)
}
