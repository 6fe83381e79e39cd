package controlplane

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"svcproxy/sandbox"
)

// cluster is a control-plane node and a worker on one network, as kind has them. On the worker are
// a pod to ask from and the two pods of kube-dns.
type cluster struct {
	*ControlPlane
	worker *sandbox.Node
	client *sandbox.Pod
}

var (
	firstPod  = netip.MustParseAddr("10.244.0.3")
	secondPod = netip.MustParseAddr("10.244.0.4")
)

func newCluster(t *testing.T) *cluster {
	t.Helper()
	network, err := sandbox.NewNetwork(sandbox.DefaultRouters())
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, network.Close)
	master := newNode(t, network, "control-plane", netip.MustParseAddr("172.18.0.2"))
	c := &cluster{
		ControlPlane: StartControlPlane(t, master.Netns, master.Addrs[0]),
		worker:       newNode(t, network, "worker", netip.MustParseAddr("172.18.0.3")),
	}
	c.createNode(t)
	c.client = newPod(t, c.worker, "client", netip.MustParseAddr("10.244.0.2"))
	for _, addr := range []netip.Addr{firstPod, secondPod} {
		serve(t, newPod(t, c.worker, "coredns-"+addr.String(), addr), addr)
	}
	return c
}

// startProxy starts svcproxy, or its peer, on the worker.
func (c *cluster) startProxy(t *testing.T, mode string) *Process {
	t.Helper()
	args := []string{"--kubeconfig", c.Kubeconfig, "--hostname-override", c.worker.Name, "--proxy-mode", mode}
	if *peer {
		return Start(t, c.worker.Netns, Program("kube-proxy"), args...)
	}
	return Start(t, c.worker.Netns, Program("svcproxy"), append([]string{"run"}, args...)...)
}

// stopProxy ends it as a supervisor does, which kube-proxy does not expect.
func stopProxy(t *testing.T, proxy *Process) {
	t.Helper()
	if *peer {
		proxy.Kill()
		return
	}
	proxy.Stop(t)
}

func newNode(t *testing.T, network *sandbox.Network, name string, addr netip.Addr) *sandbox.Node {
	t.Helper()
	node, err := sandbox.NewNode(sandbox.NodeConfig{Name: name, Network: network, Addrs: []netip.Addr{addr}})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, node.Close)
	return node
}

func newPod(t *testing.T, node *sandbox.Node, name string, addr netip.Addr) *sandbox.Pod {
	t.Helper()
	pod, err := node.AddPod(sandbox.PodConfig{Name: name, Addrs: []netip.Addr{addr}})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func closeAfter(t *testing.T, end func() error) {
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// serve makes the pod one of kube-dns: it answers every question, and every HTTP request on the
// port of the metrics, with its own address, so that an answer tells who gave it.
func serve(t *testing.T, pod *sandbox.Pod, addr netip.Addr) {
	t.Helper()
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		reply := new(dns.Msg).SetReply(question)
		header := dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}
		reply.Answer = []dns.RR{&dns.A{Hdr: header, A: addr.AsSlice()}}
		_ = w.WriteMsg(reply) // a client that is gone asked for nothing
	})
	packets, err := pod.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(addr, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	streams, err := pod.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: answer}, {Listener: streams, Handler: answer}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() {
			if err := s.ActivateAndServe(); err != nil {
				t.Errorf("DNS server of %s: %v", addr, err)
			}
		}()
		<-up
		closeAfter(t, s.Shutdown)
	}
	metrics, err := pod.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 9153).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, addr)
	})}
	go func() {
		if err := server.Serve(metrics); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("HTTP server of %s: %v", addr, err)
		}
	}()
	closeAfter(t, server.Close)
}

// output runs a program in the client pod. A failure carries all that it printed.
func (c *cluster) output(name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	command := exec.Command(name, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	err := c.client.Start(command)
	if err == nil {
		err = command.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(command.Args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// answers tell how many of the queries each pod answered.
type answers map[netip.Addr]int

// dig asks 10.96.0.10 count times from the client pod.
func (c *cluster) dig(count int, transport string) (answers, error) {
	args := []string{"@10.96.0.10", "+short", "+time=2", "+tries=1", transport}
	for range count {
		args = append(args, "whoami.test", "A")
	}
	out, err := c.output("dig", args...)
	if err != nil {
		return nil, err
	}
	by := answers{}
	for line := range strings.Lines(out) {
		addr, err := netip.ParseAddr(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("dig %s: %s", transport, out)
		}
		by[addr]++
	}
	if got := len(slices.Collect(strings.Lines(out))); got != count {
		return nil, fmt.Errorf("dig %s: %d answers to %d queries", transport, got, count)
	}
	return by, nil
}

// awaitAnswers waits until queries over both transports are answered, and by these pods alone.
func (c *cluster) awaitAnswers(t *testing.T, proxy *Process, pods ...netip.Addr) {
	t.Helper()
	for _, transport := range []string{"+notcp", "+tcp"} {
		Await(t, 20*time.Second, func() error {
			// With two pods, chance leaves one out of 20 queries twice in a million times; then
			// the next look finds it.
			by, err := c.dig(20, transport)
			if err != nil {
				return err
			}
			if len(by) != len(pods) {
				return fmt.Errorf("dig %s: answered by %v, want %v", transport, by, pods)
			}
			for _, pod := range pods {
				if by[pod] == 0 {
					return fmt.Errorf("dig %s: answered by %v, want %v", transport, by, pods)
				}
			}
			return nil
		}, proxy)
	}
}

// awaitRefusal waits until the client is told at once that nobody listens.
func (c *cluster) awaitRefusal(t *testing.T, proxy *Process) {
	t.Helper()
	for _, transport := range []string{"+notcp", "+tcp"} {
		Await(t, 20*time.Second, func() error {
			by, err := c.dig(1, transport)
			if err == nil {
				return fmt.Errorf("dig %s: answered by %v, want it refused", transport, by)
			}
			if !strings.Contains(err.Error(), "connection refused") {
				return err
			}
			return nil
		}, proxy)
	}
}

// awaitSilence waits until no query is answered any more, whatever the client is told.
func (c *cluster) awaitSilence(t *testing.T, proxy *Process) {
	t.Helper()
	for _, transport := range []string{"+notcp", "+tcp"} {
		Await(t, 20*time.Second, func() error {
			if by, err := c.dig(1, transport); err == nil {
				return fmt.Errorf("dig %s: answered by %v", transport, by)
			}
			return nil
		}, proxy)
	}
}
