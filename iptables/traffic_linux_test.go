package iptables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// pods makes a node with pods that tell on TCP port 8080 who they are and whom they see.
func pods(t *testing.T, addrs ...netip.Addr) (*sandbox.Node, []*sandbox.Pod) {
	t.Helper()
	nstest.Require(t)
	node, err := sandbox.NewNode(sandbox.NodeConfig{Name: "node"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	var all []*sandbox.Pod
	for _, addr := range addrs {
		p, err := node.AddPod(sandbox.PodConfig{Name: "pod-" + addr.String(), Addrs: []netip.Addr{addr}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := p.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				seen := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
				fmt.Fprintf(c, "%s sees %s", addr, seen)
				c.Close()
			}
		}()
		all = append(all, p)
	}
	return node, all
}

// ask connects and returns the answer.
func ask(t *testing.T, from *sandbox.Netns, to netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(to, 80).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// podService returns a Service of pods in the cluster's range.
func podService(f model.Family, i int, pods ...netip.Addr) *plan.Service {
	s := service(f, i, len(pods))
	for n := range pods {
		s.Ports[0].Endpoints[n].Addr = pods[n]
	}
	return s
}

func TestTraffic(t *testing.T) {
	addrs := map[model.Family][]string{
		model.IPv4: {"10.244.0.3", "10.244.0.4", "10.244.0.9"},
		model.IPv6: {"fd00:10:244::3", "fd00:10:244::4", "fd00:10:244::9"},
	}
	for _, binary := range []string{"iptables-legacy", "iptables-nft"} {
		for _, f := range model.Families {
			t.Run(fmt.Sprintf("%s/%s", binary, f), func(t *testing.T) {
				t.Parallel()
				var ips []netip.Addr
				for _, a := range addrs[f] {
					ips = append(ips, netip.MustParseAddr(a))
				}
				node, pods := pods(t, ips...)
				backend, err := New(Options{Family: f, NetNS: node.Path(), Binary: binary})
				if err != nil {
					t.Fatal(err)
				}
				n := &traffic{node, pods, ips, f, backend}
				p := planOf(f, podService(f, 1, ips[:2]...), service(f, 2, 0), podService(f, 3, ips[2]))
				for i := range flatLimit {
					s := service(f, 100+i, 0)
					p.Services[s.Name] = s
				}
				if _, err := backend.Apply(t.Context(), full(p)); err != nil {
					t.Fatal(err)
				}
				n.balances(t)
				n.refuses(t)
				n.masquerades(t)
				n.followsChanges(t, p)
			})
		}
	}
}

// traffic is a node with a client, the last of its pods, and two endpoints.
type traffic struct {
	node    *sandbox.Node
	pods    []*sandbox.Pod
	ips     []netip.Addr
	family  model.Family
	backend *Backend
}

func (n *traffic) balances(t *testing.T) {
	t.Helper()
	for what, from := range map[string]*sandbox.Netns{"pod": n.pods[2].Netns, "node": n.node.Netns} {
		hits := map[string]int{}
		for range 40 {
			answer, err := ask(t, from, vip(n.family, 1))
			if err != nil {
				t.Fatalf("from the %s: %v", what, err)
			}
			hits[answer]++
		}
		if len(hits) != 2 {
			t.Errorf("from the %s: answers %v, want those of both endpoints", what, hits)
		}
		if want := fmt.Sprintf("%s sees %s", n.ips[0], n.ips[2]); what == "pod" && hits[want] == 0 {
			t.Errorf("a pod's address should be kept: %v", hits)
		}
	}
}

func (n *traffic) refuses(t *testing.T) {
	t.Helper()
	if _, err := ask(t, n.pods[2].Netns, vip(n.family, 2)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a Service without endpoints: %v, want connection refused", err)
	}
}

// masquerades lets a pod reach itself through a Service, which works only from another address.
func (n *traffic) masquerades(t *testing.T) {
	t.Helper()
	answer, err := ask(t, n.pods[2].Netns, vip(n.family, 3))
	if err != nil || answer == fmt.Sprintf("%s sees %s", n.ips[2], n.ips[2]) {
		t.Errorf("a pod that reaches itself: %q, %v", answer, err)
	}
}

// followsChanges takes the endpoints from one Service and gives them to another.
func (n *traffic) followsChanges(t *testing.T, p *plan.Plan) {
	t.Helper()
	gone, come := service(n.family, 1, 0), podService(n.family, 2, n.ips[:1]...)
	_, err := n.backend.Apply(t.Context(), plan.Change{Config: p.Config,
		Services: map[model.ServiceName]*plan.Service{gone.Name: gone, come.Name: come}})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := ask(t, n.pods[2].Netns, vip(n.family, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the Service that lost its endpoints: %q, %v, want connection refused", answer, err)
	}
	if answer, err := ask(t, n.pods[2].Netns, vip(n.family, 2)); err != nil {
		t.Errorf("the Service that got an endpoint: %q, %v", answer, err)
	}
}
