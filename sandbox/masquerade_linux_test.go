package sandbox_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// whoAmIUDP answers every datagram with the address of its sender until the test ends.
func whoAmIUDP(t *testing.T, ns *sandbox.Netns, addr string) {
	t.Helper()
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for {
			_, from, err := conn.ReadFrom(make([]byte, 1))
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
		}
	}()
}

func askUDP(t *testing.T, from *sandbox.Netns, to string) (string, error) {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 100)
	n, err := c.Read(answer)
	return string(answer[:n]), err
}

// podNetworks are those of all nodes.
func podNetworks() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
}

// families are the addresses of one world, per family.
var families = []struct{ name, node, other, pod, neighbour, remote, host string }{
	{"IPv4", "172.18.0.2", "172.18.0.3", "10.244.0.3", "10.244.0.4", "10.244.1.3", "172.18.0.100"},
	{"IPv6", "fc00:f853:ccd:e793::2", "fc00:f853:ccd:e793::3", "fd00:10:244::3", "fd00:10:244::4", "fd00:10:244:1::3", "fc00:f853:ccd:e793::100"},
}

func TestPodsTrafficOutHasTheNodesAddress(t *testing.T) {
	nstest.Require(t)
	for _, f := range families {
		if f.name == "IPv6" && !sandbox.HasIPv6() {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			network, err := sandbox.NewNetwork(sandbox.DefaultRouters())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { network.Close() })
			// Both prefixes although the node has one family.
			node := newNode(t, sandbox.NodeConfig{Name: "node", Addrs: addrs(f.node), Network: network, Masquerade: podNetworks()})
			other := newNode(t, sandbox.NodeConfig{Name: "other", Addrs: addrs(f.other), Network: network, Masquerade: podNetworks()})
			pod, neighbour := addPod(t, node, "pod", f.pod), addPod(t, node, "neighbour", f.neighbour)
			remote := addPod(t, other, "remote", f.remote)
			host, err := node.AddHost(sandbox.HostConfig{Name: "host", Addrs: addrs(f.host)})
			if err != nil {
				t.Fatal(err)
			}
			for name, tc := range map[string]struct {
				client, server *sandbox.Netns
				at, sees       string
			}{
				"pod to the outside":            {pod.Netns, host.Netns, f.host, f.node},
				"pod to itself":                 {pod.Netns, pod.Netns, f.pod, f.pod},
				"pod to pod":                    {pod.Netns, neighbour.Netns, f.neighbour, f.pod},
				"pod to another node's pod":     {pod.Netns, remote.Netns, f.remote, f.pod},
				"pod to its node":               {pod.Netns, node.Netns, f.node, f.pod},
				"pod to another node":           {pod.Netns, other.Netns, f.other, f.node},
				"outside to pod":                {host.Netns, pod.Netns, f.pod, f.host},
				"node to the outside":           {node.Netns, host.Netns, f.host, f.node},
				"another node's pod to outside": {remote.Netns, host.Netns, f.host, f.other},
			} {
				t.Run(name, func(t *testing.T) {
					to := netip.AddrPortFrom(netip.MustParseAddr(tc.at), 8080).String()
					whoAmI(t, tc.server, to)
					whoAmIUDP(t, tc.server, to)
					mustAsk(t, tc.client, to, tc.sees)
					if got, err := askUDP(t, tc.client, to); err != nil || got != tc.sees {
						t.Errorf("over UDP %s was reached as %q, want %q; %v", to, got, tc.sees, err)
					}
				})
			}
		})
	}
}

func TestWithoutMasqueradeThereIsNoTable(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "plain"})
	if tables := run(t, node.Netns, "nft", "list", "tables"); tables != "" {
		t.Errorf("a node without masquerading has %s", tables)
	}
}

func TestMasqueradeTableIsItsOwn(t *testing.T) {
	node := newNode(t, sandbox.NodeConfig{Name: "node", Masquerade: podNetworks()})
	tables := strings.Split(strings.TrimSpace(run(t, node.Netns, "nft", "list", "tables")), "\n")
	want := []string{"table ip " + sandbox.MasqueradeTable}
	if sandbox.HasIPv6() {
		want = append(want, "table ip6 "+sandbox.MasqueradeTable)
	}
	if fmt.Sprint(tables) != fmt.Sprint(want) {
		t.Errorf("tables %q, want %q", tables, want)
	}
	rules := run(t, node.Netns, "nft", "list", "table", "ip", sandbox.MasqueradeTable)
	for _, rule := range []string{"ip daddr 10.244.0.0/16 return", `oifname "eth0" ip saddr 10.244.0.0/16 masquerade fully-random`} {
		if !strings.Contains(rules, rule) {
			t.Errorf("no rule %q in\n%s", rule, rules)
		}
	}
	if _, err := sandbox.NewNode(sandbox.NodeConfig{Name: "wrong", Masquerade: make([]netip.Prefix, 1)}); err == nil {
		t.Error("a prefix that is none was taken")
	}
}
