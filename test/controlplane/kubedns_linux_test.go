package controlplane

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// inBothModes runs a test on a cluster of its own for each backend.
func inBothModes(t *testing.T, test func(t *testing.T, c *cluster, mode string)) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, newCluster(t), mode)
		})
	}
}

// The life of kube-dns, told through the API server: each step changes objects and asks as a pod does.
func TestKubeDNS(t *testing.T) {
	inBothModes(t, func(t *testing.T, c *cluster, mode string) {
		proxy := c.startProxy(t, mode)

		c.createKubeDNS(t)
		c.awaitRefusal(t, proxy)

		c.create(t, ready("kube-dns-a", firstPod))
		c.awaitAnswers(t, proxy, firstPod)
		c.create(t, ready("kube-dns-b", secondPod))
		c.awaitAnswers(t, proxy, firstPod, secondPod)
		c.checkShares(t)
		c.checkMetricsPort(t)

		c.update(t, unready("kube-dns-a", firstPod))
		c.awaitAnswers(t, proxy, secondPod)
		c.update(t, ready("kube-dns-a", firstPod))
		c.awaitAnswers(t, proxy, firstPod, secondPod)

		c.delete(t, "kube-dns-a")
		c.awaitAnswers(t, proxy, secondPod)
		c.delete(t, "kube-dns-b")
		c.awaitRefusal(t, proxy)

		c.create(t, ready("kube-dns-c", firstPod, secondPod))
		c.awaitAnswers(t, proxy, firstPod, secondPod)
		c.deleteKubeDNS(t)
		c.awaitSilence(t, proxy)
		stopProxy(t, proxy)
	})
}

func TestRestart(t *testing.T) {
	inBothModes(t, func(t *testing.T, c *cluster, mode string) {
		c.createKubeDNS(t)
		c.create(t, ready("kube-dns", firstPod))
		proxy := c.startProxy(t, mode)
		c.awaitAnswers(t, proxy, firstPod)

		stopProxy(t, proxy)
		c.checkAnswersAre(t, firstPod) // the rules stay
		c.update(t, ready("kube-dns", secondPod))
		proxy = c.startProxy(t, mode)
		c.awaitAnswers(t, proxy, secondPod)

		proxy.Kill()
		c.checkAnswersAre(t, secondPod)
		c.update(t, ready("kube-dns", firstPod, secondPod))
		proxy = c.startProxy(t, mode)
		c.awaitAnswers(t, proxy, firstPod, secondPod)

		stopProxy(t, proxy)
		c.deleteKubeDNS(t) // nobody tells the next process of what was there
		proxy = c.startProxy(t, mode)
		c.awaitSilence(t, proxy)
	})
}

// The Service that Kubernetes makes for itself leads to the API server, which is a host and no pod.
func TestAPIServerByItsService(t *testing.T) {
	inBothModes(t, func(t *testing.T, c *cluster, mode string) {
		proxy := c.startProxy(t, mode)
		Await(t, 30*time.Second, func() error {
			out, err := c.output("curl", "-sS", "--max-time", "5", "--cacert", c.Certificate, "https://10.96.0.1/version")
			if err == nil && !strings.Contains(out, "gitVersion") {
				err = fmt.Errorf("not an API server's answer: %s", out)
			}
			return err
		}, proxy)
	})
}

// checkShares: of 60 fair choices between two, one gets fewer than 10 once in 30 million times.
func (c *cluster) checkShares(t *testing.T) {
	t.Helper()
	for _, transport := range []string{"+notcp", "+tcp"} {
		by, err := c.dig(60, transport)
		if err != nil {
			t.Fatal(err)
		}
		if by[firstPod] < 10 || by[secondPod] < 10 {
			t.Errorf("dig %s: 60 queries were answered by %v", transport, by)
		}
	}
}

func (c *cluster) checkMetricsPort(t *testing.T) {
	t.Helper()
	out, err := c.output("curl", "-sS", "--max-time", "5", "http://10.96.0.10:9153/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out); got != firstPod.String() && got != secondPod.String() {
		t.Errorf("port 9153 was answered by %q", got)
	}
}

// checkAnswersAre looks once: nobody is at work to change anything.
func (c *cluster) checkAnswersAre(t *testing.T, pod netip.Addr) {
	t.Helper()
	for _, transport := range []string{"+notcp", "+tcp"} {
		by, err := c.dig(5, transport)
		if err != nil {
			t.Fatal(err)
		}
		if by[pod] != 5 {
			t.Errorf("dig %s: answered by %v, want %s", transport, by, pod)
		}
	}
}
