package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"svcproxy/test/nstest"
)

const balancer = "../../examples/load-balancer.yaml"

// A load balancer's Service of manifests, in a real kernel: what is programmed is dumped, and the health-check
// node port answers where node ports do.
func TestALoadBalancersServiceIsServed(t *testing.T) {
	for mode, elsewhere := range map[string]bool{"nftables": false, "iptables": true} {
		ns := nstest.New(t)
		for _, a := range []string{"192.168.0.10/32", "192.168.0.11/32"} {
			ns.Run(t, "ip", "address", "add", a, "dev", "lo")
		}
		stop := start(t, "run", "--manifests", balancer, "--netns", ns.Path(), "--proxy-mode", mode, "--hostname-override", "node-a",
			"--cluster-cidr", "10.244.0.0/16", "--metrics-bind-address", "", "--log-level", "error")
		nstest.Eventually(t, 10*time.Second, func() error {
			if got := health(ns, "192.168.0.10:32080"); got != "200 1" {
				return fmt.Errorf("%s: at the Node's primary address: %s", mode, got)
			}
			return nil
		})
		if got := health(ns, "192.168.0.11:32080"); (got == "200 1") != elsewhere {
			t.Errorf("%s: at another address: %s", mode, got)
		}
		tree := mustRun(t, "dump", "--netns", ns.Path(), "-o", "tree")
		for _, line := range []string{
			"├─ ClusterIP 10.96.80.80:80\n", "├─ ExternalIP 203.0.113.7:80\n", "├─ LoadBalancer 192.0.2.80:80\n", "├─ NodePort *:30080\n",
		} {
			if !strings.Contains(tree, line) {
				t.Errorf("%s: no %q in\n%s", mode, line, tree)
			}
		}
		stop()
		if got := health(ns, "192.168.0.10:32080"); !strings.Contains(got, "refused") {
			t.Errorf("%s: after the end: %s", mode, got)
		}
	}
}

// start runs a command until the function that it returns is called.
func start(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	root := newRoot()
	root.SetArgs(args)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("svcproxy %s: %v", strings.Join(args, " "), err)
		}
	}
}

// health asks at a health-check node port, and returns the status and the number of endpoints, or the error.
func health(ns *nstest.NS, address string) string {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = (&net.Dialer{}).DialContext(ctx, network, address); return err })
		return c, err
	}}
	res, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://" + address)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	return fmt.Sprint(res.StatusCode, " ", res.Header.Get("X-Load-Balancing-Endpoint-Weight"))
}
