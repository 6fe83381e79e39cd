package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// world is a node with a client pod, and server pods behind the untouched Service.
type world struct {
	node    *sandbox.Node
	client  *sandbox.Pod
	servers map[model.Family][]netip.Addr
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
	w := &world{node: node, servers: map[model.Family][]netip.Addr{}}
	for i := range 3 {
		pod := w.pod(t, fmt.Sprintf("server-%d", i), 3+i)
		for _, a := range pod.Addrs {
			w.servers[model.FamilyOf(a)] = append(w.servers[model.FamilyOf(a)], a)
			echo(t, pod, netip.AddrPortFrom(a, serverPort))
		}
	}
	w.client = w.pod(t, "client", 8)
	return w
}

func (w *world) pod(t *testing.T, name string, n int) *sandbox.Pod {
	t.Helper()
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(n)})}
	if sandbox.HasIPv6() {
		addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", n)))
	}
	pod, err := w.node.AddPod(sandbox.PodConfig{Name: name, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// families are those that the kernel has.
func families() []model.Family {
	if sandbox.HasIPv6() {
		return model.Families
	}
	return []model.Family{model.IPv4}
}

// echo sends back what it receives, until the test ends.
func echo(t *testing.T, pod *sandbox.Pod, at netip.AddrPort) {
	t.Helper()
	l, err := pod.Listen(context.Background(), "tcp", at.String())
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
				go func() {
					defer c.Close()
					io.Copy(c, c)
				}()
			}
		}
	}()
}
