package traffic

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// The sandbox hides its pods behind their node from everybody outside, with a table of its own; a proxy beside it
// changes nothing of that, and neither does its end.
func TestProxyBesideTheSandboxesMasquerade(t *testing.T) {
	nstest.Require(t)
	for _, d := range dataPlanes {
		for _, f := range families() {
			t.Run(d.name+"/"+f.String(), func(t *testing.T) { besideMasquerade(t, d, f) })
		}
	}
}

func families() []model.Family {
	if sandbox.HasIPv6() {
		return []model.Family{model.IPv4, model.IPv6}
	}
	return []model.Family{model.IPv4}
}

func besideMasquerade(t *testing.T, d dataPlane, f model.Family) {
	c := clusterConfig(f)
	node, err := sandbox.NewNode(sandbox.NodeConfig{Name: "node", Masquerade: c.Detector.Prefixes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	hostAddr := map[model.Family]netip.Addr{model.IPv4: netip.MustParseAddr("172.18.0.100"), model.IPv6: netip.MustParseAddr("fc00:f853:ccd:e793::100")}[f]
	host, err := node.AddHost(sandbox.HostConfig{Name: "host", Addrs: []netip.Addr{hostAddr}})
	if err != nil {
		t.Fatal(err)
	}
	var pods []*sandbox.Pod
	for i := range 2 {
		pod, err := node.AddPod(sandbox.PodConfig{Name: fmt.Sprint("pod-", i), Addrs: []netip.Addr{serverAddr(f, i)}})
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, pod)
	}
	nodeAddr := node.Addrs[0]
	if f == model.IPv6 {
		nodeAddr = node.Addrs[1]
	}
	tellClients(t, host.Netns, hostAddr)
	tellClients(t, pods[1].Netns, serverAddr(f, 1))

	b, err := d.new(node.Path(), f, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{planner: plan.NewPlanner(c), backend: b, guards: d.guards, inputs: map[model.ServiceName]plan.Input{}}
	p.configure(t, c)
	outside, inside := service("outside", clusterIP(f, 0), 0), service("inside", clusterIP(f, 1), 1)
	outside.Slices[0].Endpoints[0].Addr = hostAddr
	p.mustSync(t, outside, inside)

	port, direct := servicePorts[model.TCP], serverPorts[model.TCP]
	sees(t, pods[0], netip.AddrPortFrom(clusterIP(f, 0), port), nodeAddr)
	sees(t, pods[0], netip.AddrPortFrom(clusterIP(f, 1), port), serverAddr(f, 0))
	sees(t, pods[0], netip.AddrPortFrom(hostAddr, direct), nodeAddr)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, cleanup := range []error{
		nftables.Cleanup(t.Context(), nftables.Options{Family: f, NetNS: node.Path()}),
		iptables.CleanupAll(t.Context(), iptables.Options{Family: f, NetNS: node.Path()}),
	} {
		if cleanup != nil {
			t.Fatal(cleanup)
		}
	}
	sees(t, pods[0], netip.AddrPortFrom(hostAddr, direct), nodeAddr)
	sees(t, pods[0], netip.AddrPortFrom(serverAddr(f, 1), direct), serverAddr(f, 0))
}

// tellClients answers every TCP connection with the client's address until the test ends.
func tellClients(t *testing.T, ns *sandbox.Netns, at netip.Addr) {
	l, err := ns.Listen(t.Context(), "tcp", netip.AddrPortFrom(at, serverPorts[model.TCP]).String())
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

func sees(t *testing.T, from *sandbox.Pod, to netip.AddrPort, want netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != want.String() {
		t.Errorf("%s saw %s as %q, want %s; %v", to, from.Name, got, want, err)
	}
}
