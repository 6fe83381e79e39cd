package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"svcproxy/model"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// world is a node with the pods behind the healthy Services and one that uses them.
type world struct {
	node   *sandbox.Node
	client *sandbox.Pod
}

func newWorld(t *testing.T) *world {
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
	w := &world{node: node}
	for i := range serverAddrs[discoveryv1.AddressTypeIPv4] {
		w.serve(t, w.pod(t, fmt.Sprintf("server-%d", i), serverAddrs[discoveryv1.AddressTypeIPv4][i], serverAddrs[discoveryv1.AddressTypeIPv6][i]))
	}
	w.client = w.pod(t, "client", "10.244.0.8", "fd00:10:244::8")
	return w
}

func (w *world) pod(t *testing.T, name, v4, v6 string) *sandbox.Pod {
	t.Helper()
	addrs := []netip.Addr{netip.MustParseAddr(v4)}
	if sandbox.HasIPv6() {
		addrs = append(addrs, netip.MustParseAddr(v6))
	}
	pod, err := w.node.AddPod(sandbox.PodConfig{Name: name, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// serve answers every connection to the pod with the pod's name, until the test ends.
func (w *world) serve(t *testing.T, pod *sandbox.Pod) {
	t.Helper()
	for _, addr := range pod.Addrs {
		l, err := pod.Listen(context.Background(), "tcp", netip.AddrPortFrom(addr, serverPort).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					io.WriteString(c, pod.Name)
					c.Close()
				}
			}
		}()
	}
}

// families are those that the kernel has.
func families() []model.Family {
	if sandbox.HasIPv6() {
		return model.Families
	}
	return []model.Family{model.IPv4}
}

// askHealthy fails the test unless every healthy Service answers.
func (w *world) askHealthy(t *testing.T) {
	t.Helper()
	for i := range healthyServices {
		for _, ip := range []string{healthyClusterIP(i), healthyClusterIPv6(i)} {
			if !slices.Contains(families(), model.FamilyOf(netip.MustParseAddr(ip))) {
				continue
			}
			if answer, err := w.ask(t, ip); err != nil || answer != "server-0" && answer != "server-1" {
				t.Errorf("healthy Service %s at %s answered %q; %v", healthyName(i), ip, answer, err)
			}
		}
	}
}

func (w *world) ask(t *testing.T, ip string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := w.client.Dial(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(ip), healthyPort).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetReadDeadline(deadline)
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}
