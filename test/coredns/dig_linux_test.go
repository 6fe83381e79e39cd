package coredns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/kubelet"
	"svcproxy/sandbox"
)

// dig runs dig in the client pod, by that pod's resolv.conf, and returns what it printed. A failure carries all of it.
func (c *cluster) dig(args ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	p, err := c.kubelet.Exec(client, "", sandbox.ExecConfig{Args: append([]string{"dig"}, args...), Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if _, err = io.Copy(&out, r); err != nil {
		return "", err
	}
	<-p.Done()
	if s := p.Status(); s.Code != 0 {
		return "", fmt.Errorf("dig %s: exit code %d\n%s", strings.Join(args, " "), s.Code, out.String())
	}
	return out.String(), nil
}

// short is what dig +short prints, its lines in order.
func (c *cluster) short(args ...string) (string, error) {
	out, err := c.dig(append([]string{"+short", "+tries=1", "+time=5"}, args...)...)
	lines := strings.Fields(strings.ReplaceAll(strings.TrimSpace(out), " ", "_"))
	slices.Sort(lines)
	return strings.ReplaceAll(strings.Join(lines, "\n"), "_", " "), err
}

// answered are how many queries a pod of CoreDNS has answered since it started, by its own count.
func (c *cluster) answered(pod types.NamespacedName) (int, error) {
	web := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.worker.Dial(ctx, network, address)
		},
	}}
	response, err := web.Get("http://" + netip.AddrPortFrom(c.addrs(pod)[0], 9153).String() + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	sum := 0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "coredns_dns_responses_total{") {
			continue
		}
		_, number, _ := strings.Cut(lines.Text(), "} ")
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		sum += int(n)
	}
	return sum, lines.Err()
}

// ask sends queries by the Service's first address, each once. It is an error unless all are answered.
func (c *cluster) ask(count int, transport string) error {
	args := []string{"-4", "+short", "+tries=1", "+time=5", transport}
	for range count {
		args = append(args, "kubernetes.default.svc.cluster.local")
	}
	out, err := c.dig(args...)
	if err == nil && out != strings.Repeat("10.96.0.1\n", count) {
		err = fmt.Errorf("dig %s: %d queries were answered by %q", transport, count, out)
	}
	return err
}

// shares sends queries and tells how many of them each pod answered.
func (c *cluster) shares(count int, transport string, pods ...types.NamespacedName) (map[string]int, error) {
	by := map[string]int{}
	for _, pod := range pods {
		n, err := c.answered(pod)
		if err != nil {
			return nil, err
		}
		by[pod.Name] = -n
	}
	if err := c.ask(count, transport); err != nil {
		return nil, err
	}
	for _, pod := range pods {
		n, err := c.answered(pod)
		if err != nil {
			return nil, err
		}
		by[pod.Name] += n
	}
	return by, nil
}

// serveUpstream starts the name server outside the cluster to which CoreDNS forwards. It knows www.example.com.
func (c *cluster) serveUpstream(network *sandbox.Network) {
	c.Helper()
	host, err := c.worker.AddHost(sandbox.HostConfig{Name: "upstream", Addrs: upstream})
	c.must(err)
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		reply := new(dns.Msg).SetReply(question)
		q := question.Question[0]
		switch {
		case q.Name != "www.example.com.":
			reply.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
			reply.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 1)}}
		}
		_ = w.WriteMsg(reply) // a client that is gone asked for nothing
	})
	at := netip.AddrPortFrom(upstream[0], 53).String()
	packets, err := host.ListenPacket(c.Context(), "udp", at)
	c.must(err)
	streams, err := host.Listen(c.Context(), "tcp", at)
	c.must(err)
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: answer}, {Listener: streams, Handler: answer}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() {
			if err := s.ActivateAndServe(); err != nil {
				c.Errorf("upstream: %v", err)
			}
		}()
		<-up
		c.closeAfter(s.Shutdown)
	}
}

// describePods is what a failed test shows of the pods.
func (c *cluster) describePods() string {
	var out strings.Builder
	for _, pod := range c.kubelet.Pods() {
		fmt.Fprintf(&out, "pod %s: %s\n", nameOf(pod), pod.Status.String())
		for _, e := range c.kubelet.Events(nameOf(pod)) {
			fmt.Fprintf(&out, "  %s %s\n", e.Reason, e.Message)
		}
		for _, previous := range []bool{true, false} {
			if log, err := c.log(pod, previous); err == nil {
				out.WriteString(log)
			}
		}
	}
	return out.String()
}

func (c *cluster) log(pod *corev1.Pod, previous bool) (string, error) {
	path, err := c.kubelet.Log(nameOf(pod), "", previous)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		l, err := kubelet.ParseLogLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return "", errors.Join(fmt.Errorf("log line %q", line), err)
		}
		out.WriteString("  " + l.Text + "\n")
	}
	return out.String(), nil
}
