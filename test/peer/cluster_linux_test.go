package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"svcproxy/model"
	"svcproxy/sandbox"
	"svcproxy/test/controlplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// cluster is an API server, and where it runs.
type cluster struct {
	*controlplane.ControlPlane
	master *sandbox.Node
	// kubeconfig leads nodes to the API server by relayAddr.
	kubeconfig string
}

// relayAddr is where each node reaches the API server, of which all are the only node.
var relayAddr = netip.MustParseAddrPort("127.0.0.1:16443")

func newCluster(t *testing.T) *cluster {
	t.Helper()
	master, err := sandbox.NewNode(sandbox.NodeConfig{Name: "control-plane", Addrs: []netip.Addr{netip.MustParseAddr("172.18.0.9")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := master.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{ControlPlane: controlplane.StartControlPlane(t, master.Netns, master.Addrs[0]), master: master}
	c.kubeconfig = c.KubeconfigFor(t, relayAddr)
	node, err := c.Client.CoreV1().Nodes().Create(t.Context(), nodeObject(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status = nodeObject().Status
	if _, err := c.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// relay lets a namespace reach the API server, though it has no way to it.
func (c *cluster) relay(t *testing.T, ns *sandbox.Netns) {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", relayAddr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := c.master.Dial(context.Background(), "tcp", netip.AddrPortFrom(c.master.Addrs[0], 6443).String())
				if err != nil {
					return // the client sees the connection end, and tries again
				}
				defer far.Close()
				join(near, far)
			}()
		}
	}()
}

// join copies both ways until one side ends.
func join(a, b net.Conn) {
	var once sync.WaitGroup
	once.Add(1)
	ended := sync.OnceFunc(once.Done)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			ended()
		}()
	}
	once.Wait()
}

// apply creates a Service with its status and slices.
func (c *cluster) apply(t *testing.T, s *corev1.Service, slices []*discoveryv1.EndpointSlice) {
	t.Helper()
	var made *corev1.Service
	// The right to allocate from a Service CIDR follows readiness shortly.
	nstest.Eventually(t, 30*time.Second, func() (err error) {
		made, err = c.Client.CoreV1().Services(namespace).Create(t.Context(), s, metav1.CreateOptions{})
		return err
	})
	if len(s.Status.LoadBalancer.Ingress) > 0 {
		made.Status = s.Status
		if _, err := c.Client.CoreV1().Services(namespace).UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, slice := range slices {
		if _, err := c.Client.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// remove deletes a Service and its slices.
func (c *cluster) remove(t *testing.T, name string) {
	t.Helper()
	selector := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name}
	err := errors.Join(
		c.Client.CoreV1().Services(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}),
		c.Client.DiscoveryV1().EndpointSlices(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, selector))
	if err != nil {
		t.Fatal(err)
	}
}

// node is the node with a world of its own around it.
type node struct {
	*world.World
	name  string
	proxy *controlplane.Process
	sctp  sync.Map // see alone
}

// newNode makes a node, which has no proxy yet.
func (c *cluster) newNode(t *testing.T, name string) *node {
	t.Helper()
	n := &node{World: world.New(t, world.Config{}), name: name}
	for _, a := range nodeBalancer {
		n.AddNodeAddr(t, a)
	}
	c.relay(t, n.Node.Netns)
	return n
}

// Programs that can be a node's proxy.
const (
	kubeProxy = "kube-proxy"
	svcproxy  = "svcproxy"
)

// start starts a proxy on the node. The flags are those that both programs have.
func (c *cluster) start(t *testing.T, n *node, program, mode string, flags ...string) {
	t.Helper()
	args := append([]string{"--kubeconfig", c.kubeconfig, "--hostname-override", world.NodeName, "--proxy-mode", mode}, flags...)
	if program == kubeProxy {
		// These are no namespace's own, and its to leave alone.
		args = append(args, "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0")
	} else {
		args = append([]string{"run"}, args...)
	}
	n.proxy = controlplane.Start(t, n.Node.Netns, controlplane.Program(program), args...)
}

// settle waits until the node's proxy has programmed all that there was when settle was called: another Service
// is created after it, and works when its predecessors do.
func (c *cluster) settle(t *testing.T, nodes ...*node) {
	t.Helper()
	s := subject{name: "settled", endpoints: at(here)}
	const number = 255
	c.apply(t, s.service(number), s.slices())
	for _, n := range nodes {
		for _, f := range model.Families {
			n.awaitVerdict(t, world.Answered, netip.AddrPortFrom(clusterIP(f, number), servicePort))
		}
	}
	c.remove(t, s.name)
	for _, n := range nodes {
		for _, f := range model.Families {
			controlplane.Await(t, time.Minute, func() error {
				return n.unless(world.Answered, netip.AddrPortFrom(clusterIP(f, number), servicePort))
			}, n.proxy)
		}
	}
}

func (n *node) awaitVerdict(t *testing.T, want world.Verdict, to netip.AddrPort) {
	t.Helper()
	controlplane.Await(t, time.Minute, func() error { return n.expect(want, to) }, n.proxy)
}

// flagsOf splits flags written as a text.
func flagsOf(text string) []string { return strings.Fields(text) }
