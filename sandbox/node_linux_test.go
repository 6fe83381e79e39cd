package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func newNode(t *testing.T, cfg sandbox.NodeConfig) *sandbox.Node {
	t.Helper()
	nstest.Require(t)
	node, err := sandbox.NewNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	return node
}

func addPod(t *testing.T, node *sandbox.Node, name string, list ...string) *sandbox.Pod {
	t.Helper()
	pod, err := node.AddPod(sandbox.PodConfig{Name: name, Addrs: addrs(list...)})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func run(t *testing.T, ns *sandbox.Netns, name string, args ...string) string {
	t.Helper()
	return (&nstest.NS{Netns: ns}).Run(t, name, args...)
}

// whoAmI answers every TCP connection with the address of its client until the test
// ends.
func whoAmI(t *testing.T, ns *sandbox.Netns, addr string) {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", addr)
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
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// ask returns whoAmI's answer.
func ask(t *testing.T, from *sandbox.Netns, to string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// refusal sends a datagram and returns the ICMP error that comes back. (TCP over
// IPv6 would tell as much only at its second SYN, a second later: the first one's
// error comes back within connect, while the kernel holds the socket.)
func refusal(t *testing.T, from *sandbox.Netns, to string) error {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

func mustAsk(t *testing.T, from *sandbox.Netns, to, want string) {
	t.Helper()
	if got, err := ask(t, from, to); err != nil || got != want {
		t.Errorf("%s was reached as %q, want %q; %v", to, got, want, err)
	}
}

func TestPodsReachEachOtherOverTCP(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	a := addPod(t, node, "a", "10.244.0.3", "fd00:10:244::3")
	b := addPod(t, node, "b", "10.244.0.4", "fd00:10:244::4")
	whoAmI(t, b.Netns, ":80")
	mustAsk(t, a.Netns, "10.244.0.4:80", "10.244.0.3")
	mustAsk(t, a.Netns, "[fd00:10:244::4]:80", "fd00:10:244::3")
	mustAsk(t, node.Netns, "10.244.0.4:80", "10.244.0.1")
	mustAsk(t, node.Netns, "[fd00:10:244::4]:80", "fd00:10:244::1")
}

func TestPodsReachEachOtherOverUDP(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	a := addPod(t, node, "a", "10.244.0.3", "fd00:10:244::3")
	b := addPod(t, node, "b", "10.244.0.4", "fd00:10:244::4")
	for _, to := range []string{"10.244.0.4:53", "[fd00:10:244::4]:53"} {
		server, err := b.ListenPacket(t.Context(), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := a.Dial(t.Context(), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		server.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := server.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "ping" {
			t.Fatalf("%s received %q: %v", to, buf[:n], err)
		}
		if got := netip.MustParseAddrPort(from.String()).Addr(); !slices.Contains(a.Addrs, got) {
			t.Errorf("%s received from %s, want one of %v", to, got, a.Addrs)
		}
	}
}

// As an operator sees it on a node of kind.
func TestNodeHasAHostScopeRouteToEachPod(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	pod := addPod(t, node, "kube-system/coredns-a", "10.244.0.3", "fd00:10:244::3")
	if !regexp.MustCompile(`^veth[0-9a-f]{8}$`).MatchString(pod.Interface) {
		t.Errorf("interface %q", pod.Interface)
	}
	want := fmt.Sprintf("10.244.0.3 dev %s scope host", pod.Interface)
	if got := lines(run(t, node.Netns, "ip", "route")); !slices.Contains(got, want) {
		t.Errorf("no route %q in\n%s", want, strings.Join(got, "\n"))
	}
	if got := run(t, node.Netns, "ip", "-6", "route"); !strings.Contains(got, "fd00:10:244::3 dev "+pod.Interface) {
		t.Errorf("no IPv6 route in\n%s", got)
	}
	if got := run(t, node.Netns, "ip", "-o", "address", "show", "dev", pod.Interface); !strings.Contains(got, "inet 10.244.0.1/32") {
		t.Errorf("node's end without gateway address:\n%s", got)
	}
	inPod := lines(run(t, pod.Netns, "ip", "route"))
	if want := []string{"default via 10.244.0.1 dev eth0", "10.244.0.1 dev eth0 scope link"}; !slices.Equal(inPod, want) {
		t.Errorf("pod's routes %q, want %q", inPod, want)
	}
}

func TestProcessInAPodSeesOnlyItsOwnInterfaces(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a", MTU: 1400})
	pod := addPod(t, node, "a", "10.244.0.3")
	addPod(t, node, "b", "10.244.0.4")
	var names []string
	for _, line := range lines(run(t, pod.Netns, "ip", "-o", "link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
		names = append(names, strings.TrimSuffix(name, ":"))
		if name == "eth0" && !strings.Contains(line, "mtu 1400") {
			t.Errorf("MTU not 1400: %s", line)
		}
	}
	if !slices.Equal(names, []string{"lo", "eth0"}) {
		t.Errorf("interfaces %q", names)
	}
}

// A rejected connection must come back at once, which takes a source address for
// the ICMP error.
func TestRejectReachesThePod(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	pod := addPod(t, node, "a", "10.244.0.3", "fd00:10:244::3")
	for _, c := range []struct{ iptables, vip string }{
		{"iptables", "10.96.0.10"}, {"ip6tables", "fd00:10:96::a"},
	} {
		run(t, node.Netns, c.iptables, "-A", "FORWARD", "-d", c.vip, "-j", "REJECT")
		if err := refusal(t, pod.Netns, net.JoinHostPort(c.vip, "53")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want connection refused", c.vip, err)
		}
	}
}

func TestAddressesNobodyOwnsAreUnreachable(t *testing.T) {
	t.Parallel()
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	pod := addPod(t, node, "a", "10.244.0.3", "fd00:10:244::3")
	for _, from := range []*sandbox.Netns{node.Netns, pod.Netns} {
		for _, to := range []string{"10.96.0.10:53", "[fd00:10:96::a]:53"} {
			_, err := ask(t, from, to)
			if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("%s: %v, want unreachable", to, err)
			}
		}
	}
}

func TestHostOutsideReachesPodsAndThroughTheNodeAlone(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	pod := addPod(t, node, "a", "10.244.0.3", "fd00:10:244::3")
	host, err := node.AddHost(sandbox.HostConfig{Name: "client", Addrs: addrs("172.18.0.100", "fc00:f853:ccd:e793::100")})
	if err != nil {
		t.Fatal(err)
	}
	whoAmI(t, pod.Netns, ":80")
	whoAmI(t, host.Netns, ":80")
	mustAsk(t, host.Netns, "10.244.0.3:80", "172.18.0.100")
	mustAsk(t, host.Netns, "[fd00:10:244::3]:80", "fc00:f853:ccd:e793::100")
	mustAsk(t, node.Netns, "172.18.0.100:80", "172.18.0.2")
	if got := lines(run(t, host.Netns, "ip", "route")); !slices.Contains(got, "default via 172.18.0.2 dev eth0") {
		t.Errorf("host's routes: %q", got)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := node.AddHost(sandbox.HostConfig{Name: "client", Addrs: host.Addrs}); err != nil {
		t.Errorf("the host's name and addresses are not free again: %v", err)
	}
}

func TestPodsOfTwoNodesReachEachOther(t *testing.T) {
	nstest.Require(t)
	network, err := sandbox.NewNetwork(sandbox.DefaultRouters())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	nodeA := newNode(t, sandbox.NodeConfig{Name: "node-a", Network: network})
	nodeB := newNode(t, sandbox.NodeConfig{
		Name: "node-b", Network: network,
		Addrs:    addrs("172.18.0.3", "fc00:f853:ccd:e793::3"),
		Gateways: addrs("10.244.1.1", "fd00:10:244:1::1"),
	})
	a := addPod(t, nodeA, "a", "10.244.0.3", "fd00:10:244::3")
	b := addPod(t, nodeB, "b", "10.244.1.3", "fd00:10:244:1::3")
	whoAmI(t, nodeB.Netns, ":80")
	mustAsk(t, nodeA.Netns, "172.18.0.3:80", "172.18.0.2")
	whoAmI(t, b.Netns, ":80")
	mustAsk(t, a.Netns, "10.244.1.3:80", "10.244.0.3")
	mustAsk(t, a.Netns, "[fd00:10:244:1::3]:80", "fd00:10:244::3")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, a.Netns, "10.244.1.3:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("removed pod: %v, want unreachable", err)
	}
}

func TestRemovedPodLeavesNothingOnTheNode(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	before := run(t, node.Netns, "ip", "-o", "link") + run(t, node.Netns, "ip", "route")
	for range 3 { // the same name and address can be used again at once
		pod := addPod(t, node, "a", "10.244.0.3")
		sleep := exec.Command("sh", "-c", "setsid sleep 1000 & exec sleep 1000")
		if err := pod.Start(sleep); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := pod.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := sleep.Wait(); err == nil {
			t.Error("the pod's process ended well, want killed")
		}
		if err := pod.Do(func() error { return nil }); err == nil {
			t.Error("a removed pod can be entered")
		}
		if node.Pod("a") != nil || len(node.Pods()) != 0 {
			t.Error("the node still lists the pod")
		}
	}
	if after := run(t, node.Netns, "ip", "-o", "link") + run(t, node.Netns, "ip", "route"); after != before {
		t.Errorf("node before:\n%s\nafter:\n%s", before, after)
	}
}

func TestBadPodsAreRefusedByName(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a", Gateways: addrs("10.244.0.1")})
	addPod(t, node, "a", "10.244.0.3")
	before := run(t, node.Netns, "ip", "-o", "link")
	for reason, cfg := range map[string]sandbox.PodConfig{
		"taken":      {Name: "a", Addrs: addrs("10.244.0.4")},
		"pod a":      {Name: "b", Addrs: addrs("10.244.0.3")},
		"no address": {Name: "b"},
		"no gateway": {Name: "b", Addrs: addrs("fd00:10:244::3")},
	} {
		_, err := node.AddPod(cfg)
		if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), "pod "+cfg.Name) {
			t.Errorf("%v: %v, want an error that says %q and names the pod", cfg, err, reason)
		}
	}
	if after := run(t, node.Netns, "ip", "-o", "link"); after != before {
		t.Errorf("refused pods left interfaces:\n%s", after)
	}
}

func TestStartRunsInASessionOfItsOwn(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node-a"})
	pod := addPod(t, node, "a", "10.244.0.3")
	var out bytes.Buffer
	cmd := exec.Command("sh", "-c", "ps -o pid=,sid= -p $$")
	cmd.Stdout = &out
	if err := pod.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if ids := strings.Fields(out.String()); len(ids) != 2 || ids[0] != ids[1] {
		t.Errorf("pid and session %q differ", ids)
	}
}

func TestOrdinaryUserHasNodesAndPods(t *testing.T) {
	t.Parallel()
	nstest.Unprivileged(t, "^(TestPodsReach.*|TestNodeHas.*|TestHostOutside.*|TestRemovedPod.*|TestRejectReaches.*)$")
}

func lines(s string) []string {
	var out []string
	for line := range strings.Lines(s) {
		out = append(out, strings.TrimSpace(line))
	}
	return out
}
