package nftables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// cluster is a node with a client pod, endpoint pods and a backend for its table.
type cluster struct {
	builder
	node    *sandbox.Node
	client  *sandbox.Pod
	pods    []*sandbox.Pod
	backend *Backend
}

func newCluster(t *testing.T, f model.Family, endpoints int) *cluster {
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
	c := &cluster{builder: builder{f}, node: node}
	pod := func(i int) *sandbox.Pod {
		p, err := node.AddPod(sandbox.PodConfig{Name: fmt.Sprintf("pod-%d", i), Addrs: []netip.Addr{c.endpoint(i).Addr}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	c.client = pod(100)
	for i := range endpoints {
		p := pod(i)
		c.pods = append(c.pods, p)
		serve(t, p, c.endpoint(i).AddrPort())
	}
	c.backend, err = New(Options{Family: f, NetNS: node.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.backend.Close() })
	return c
}

// serve answers TCP connections and UDP datagrams with the addresses of the server and the client.
func serve(t *testing.T, p *sandbox.Pod, at netip.AddrPort) {
	t.Helper()
	l, err := p.Listen(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.ListenPacket(t.Context(), "udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	answer := func(client net.Addr) string {
		return at.Addr().String() + " " + netip.MustParseAddrPort(client.String()).Addr().String()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, answer(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo([]byte(answer(from)), from)
		}
	}()
}

// ask makes one connection and returns who answered and from which address it seemed to come.
func ask(ctx context.Context, from *sandbox.Netns, network string, to netip.AddrPort) (server, seen string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, network, to.String())
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	b := make([]byte, 200)
	n, err := c.Read(b)
	if err != nil {
		return "", "", err
	}
	server, seen, _ = strings.Cut(string(b[:n]), " ")
	return server, seen, nil
}

func (c *cluster) vipPort(i int) netip.AddrPort { return netip.AddrPortFrom(c.vip(i), 80) }

func TestConnectionsToAClusterIPReachEveryEndpoint(t *testing.T) {
	for _, f := range model.Families {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(f.String()+" "+network, func(t *testing.T) {
				c := newCluster(t, f, 3)
				apply(t, c.backend, full(planOf(c.config(), c.service(1, c.endpoints(0, 3), model.TCP, model.UDP))))
				for who, from := range map[string]*sandbox.Netns{"pod": c.client.Netns, "node": c.node.Netns} {
					hits := map[string]int{}
					for range 60 {
						server, seen, err := ask(t.Context(), from, network, c.vipPort(1))
						if err != nil {
							t.Fatalf("from the %s: %v", who, err)
						}
						if hits[server]++; who == "pod" && seen != c.client.Addrs[0].String() {
							t.Fatalf("the pod's address became %s", seen)
						}
					}
					if len(hits) != 3 {
						t.Errorf("from the %s: %v", who, hits)
					}
				}
			})
		}
	}
}

func TestAnEndpointReachesItselfThroughItsService(t *testing.T) {
	for _, f := range model.Families {
		c := newCluster(t, f, 1)
		apply(t, c.backend, full(planOf(plan.Config{Family: f}, c.service(1, c.endpoints(0, 1), model.TCP))))
		server, seen, err := ask(t.Context(), c.pods[0].Netns, "tcp", c.vipPort(1))
		if err != nil || server == seen {
			t.Errorf("%s: answered by %s as to %s: %v", f, server, seen, err)
		}
	}
}

func TestNothingBehindAServiceIsRefusedAtOnce(t *testing.T) {
	for _, f := range model.Families {
		c := newCluster(t, f, 0)
		apply(t, c.backend, full(planOf(c.config(), c.service(1, nil, model.TCP, model.UDP))))
		unknown := netip.AddrPortFrom(c.vip(1), 81)
		for _, to := range []netip.AddrPort{c.vipPort(1), unknown} {
			for _, network := range []string{"tcp", "udp"} {
				start := time.Now()
				_, _, err := ask(t.Context(), c.client.Netns, network, to)
				if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > time.Second {
					t.Errorf("%s %s: %v after %v", network, to, err, time.Since(start))
				}
			}
		}
	}
}

func TestConnectionsSurviveFlipsOfTheNumberOfEndpoints(t *testing.T) {
	for _, f := range model.Families {
		c := newCluster(t, f, 4)
		config := c.config()
		apply(t, c.backend, full(planOf(config, c.service(1, c.endpoints(0, 3), model.TCP))))
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		clients.Go(func() {
			defer stop()
			for i := range 1000 {
				if _, _, err := ask(t.Context(), c.client.Netns, "tcp", c.vipPort(1)); err != nil {
					t.Errorf("%s: connection %d: %v", f, i, err)
					return
				}
			}
		})
		flips := 0
		for ctx.Err() == nil {
			flips++
			apply(t, c.backend, partial(config, c.service(1, c.endpoints(0, 3+flips%2), model.TCP)))
		}
		clients.Wait()
		t.Logf("%s: %d flips", f, flips)
	}
}
