package traffic

import (
	"fmt"
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// world is a node with pods that serve, pods that ask, and a host outside.
type world struct {
	node    place
	servers []place
	clients []place
	outside place
	// gateways are the node's addresses towards its pods, which they see when the node masquerades.
	gateways []netip.Addr
}

const (
	serverPods = 10
	clientPods = 2
)

// newWorld makes a world that ends with the test. All its pods have addresses of both families.
func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.Require(t)
	node, err := sandbox.NewNode(sandbox.NodeConfig{Name: "node-a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{node: newPlace(node.Netns, node.Addrs), gateways: node.Gateways}
	for i := range serverPods {
		p := addPod(t, node, fmt.Sprintf("server-%d", i), serverAddr(model.IPv4, i), serverAddr(model.IPv6, i))
		w.servers = append(w.servers, p)
		for _, addr := range p.addrs {
			serve(t, p.ns, addr)
		}
	}
	for i := range clientPods {
		w.clients = append(w.clients, addPod(t, node, fmt.Sprintf("client-%d", i), nth("10.244.0.100", i), nth("fd00:10:244::100", i)))
	}
	addrs := []netip.Addr{nth("172.18.0.100", 0), nth("fc00:f853:ccd:e793::100", 0)}
	host, err := node.AddHost(sandbox.HostConfig{Name: "outside", Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	w.outside = newPlace(host.Netns, addrs)
	// A limited ICMP error is a refusal that the client never sees.
	for _, limit := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		if err := node.SetSysctl(limit, "0"); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func addPod(t *testing.T, node *sandbox.Node, name string, addrs ...netip.Addr) place {
	t.Helper()
	pod, err := node.AddPod(sandbox.PodConfig{Name: name, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	return newPlace(pod.Netns, addrs)
}

// nth returns the address i after the first.
func nth(first string, i int) netip.Addr {
	a := netip.MustParseAddr(first)
	for range i {
		a = a.Next()
	}
	return a
}

func serverAddr(f model.Family, i int) netip.Addr {
	if f == model.IPv4 {
		return nth("10.244.0.10", i)
	}
	return nth("fd00:10:244::10", i)
}

func clusterIP(f model.Family, i int) netip.Addr {
	if f == model.IPv4 {
		return nth("10.96.0.10", i)
	}
	return nth("fd00:10:96::10", i)
}

// ofFamily picks the address of a family.
func ofFamily(f model.Family, addrs []netip.Addr) netip.Addr {
	for _, a := range addrs {
		if model.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}
