package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"svcproxy/model"
	"svcproxy/sandbox"
)

const (
	dnsAddress  = "10.96.0.10"
	apiAddress  = "10.96.0.1"
	webAddress  = "10.96.80.80"
	webAddress6 = "fd00:10:96::8080"
	webNodePort = "30080"
	shopAddress = "203.0.113.80"
	nodeAddress = "172.18.0.2"
	podGateway  = "10.244.0.1" // the node's address towards its pods
	hostAddress = "172.18.0.100"
	apiName     = "kubernetes.default.svc.cluster.local"
	webName     = "web.default.svc.cluster.local"
)

func (s *story) showNode(ctx context.Context) {
	s.title("A node and its pods: a network namespace and a veth pair each")
	out, ok := s.fromNode(ctx, "ip", "ip route | grep 10.244")
	if ok {
		s.check(strings.Count(out, "scope host") == 6, "the node has a route to each of the six pods")
	}
}

func (s *story) start(ctx context.Context) {
	s.title("svcproxy makes the Services of a folder of manifests work")
	s.command("node", "svcproxy run --manifests . --proxy-mode "+s.mode+" &")
	if err := s.startProxy(s.mode); err != nil {
		s.fatal = err
		return
	}
	addresses := []string{dnsAddress + ":53", webAddress + ":80"}
	if sandbox.HasIPv6() { // programmed by itself
		addresses = append(addresses, net.JoinHostPort(webAddress6, "80"))
	}
	began := time.Now()
	err := until(ctx, 10*time.Second, func(ctx context.Context) error {
		if len(s.ended) > 0 {
			return errEnded
		}
		for _, to := range addresses {
			if err := s.connect(ctx, to); err != nil {
				return err
			}
		}
		return nil
	})
	s.check(err == nil, "the ClusterIPs %s and %s answer after %d ms", dnsAddress, webAddress, time.Since(began).Milliseconds())
	if err != nil {
		s.fatal = fmt.Errorf("no Service answers: %w", err)
	}
}

// connect connects from the client pod once. A packet that came too early is sent again only after a
// second, so it does not wait for that.
func (s *story) connect(ctx context.Context, to string) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	conn, err := s.client.Dial(ctx, "tcp", to)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (s *story) lookUp(ctx context.Context) {
	s.title("A client pod asks kube-dns, over UDP and over TCP")
	for _, transport := range []string{"", " +tcp"} {
		out, ok := s.fromClient(ctx, "dig", "dig +noall +answer +tries=2"+transport+" @"+dnsAddress+" "+apiName)
		if ok {
			s.check(strings.Contains(out, apiAddress), "the name of the API server is its ClusterIP, %s", apiAddress)
		}
	}
	if missing(s.mode, "dig") != nil {
		addresses, err := s.resolver().LookupHost(ctx, apiName+".")
		s.check(err == nil && slices.Contains(addresses, apiAddress), "asked without dig, the name of the API server is its ClusterIP, %s", apiAddress)
	}
}

// resolver asks kube-dns from the client pod, over UDP.
func (s *story) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.client.Dial(ctx, "udp", dnsAddress+":53")
	}}
}

func (s *story) fetch(ctx context.Context) {
	s.title("The client fetches a page from a Service")
	urls := []string{"http://" + webAddress + "/"}
	if sandbox.HasIPv6() {
		urls = append(urls, "http://["+webAddress6+"]/")
	}
	for _, url := range urls {
		out, ok := s.fromClient(ctx, "curl", "curl -s --max-time 5 '"+url+"'")
		if ok {
			s.check(strings.Contains(out, "default/web-"), "one of the web pods answered")
		}
	}
}

// split makes 200 connections and compares how many each pod got with equal shares: further than five
// standard deviations off happens once in two million runs.
func (s *story) split(ctx context.Context) {
	const requests = 200
	s.title("%d requests to http://%s/ and the pods that answered them", requests, webAddress)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return s.client.Dial(ctx, network, addr)
		},
	}}
	counts := map[string]int{}
	for range requests {
		pod, err := get(ctx, client, "http://"+webAddress+"/")
		if err != nil {
			s.check(false, "a request failed: %v", err)
			return
		}
		counts[pod]++
	}
	n := float64(len(s.webPods))
	allowed := 5 * math.Sqrt(requests*(1/n)*(1-1/n))
	fair := len(counts) == len(s.webPods)
	for _, p := range s.webPods {
		got := counts[p.String()]
		s.output(fmt.Sprintf("%-16s %3d  %s", p, got, strings.Repeat("▇", got/3)))
		fair = fair && math.Abs(float64(got)-requests/n) <= allowed
	}
	s.check(fair, "each of the %d pods got its share", len(s.webPods))
}

// get fetches a page and returns the pod that it names.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(body))
	if len(fields) == 0 {
		return "", errors.New("an empty page")
	}
	return fields[0], nil
}

// outside shows what a client outside the cluster meets: a node port, and at the load balancer's address the traffic
// policy Local.
func (s *story) outside(ctx context.Context) {
	s.title("A host outside the cluster: a node port, and a load balancer's address that keeps the client's")
	for _, to := range []struct {
		url, seen, text string
	}{
		{"http://" + nodeAddress + ":" + webNodePort + "/", podGateway, "a pod answered at the node's port; it saw the node's address"},
		{"http://" + shopAddress + "/", hostAddress, "a pod answered at the load balancer's address; by the policy Local it saw the client's own"},
	} {
		out, ok := s.show(ctx, "outside", "curl", "curl -s --max-time 5 '"+to.url+"'", s.onHost)
		if ok {
			s.check(strings.Contains(out, "default/web-") && strings.Contains(out, " asked by "+to.seen), "%s, %s", to.text, to.seen)
		}
	}
}

func (s *story) dump(ctx context.Context) {
	s.title("What is programmed for kube-dns, read back from the kernel")
	s.fromNode(ctx, "svcproxy", "svcproxy dump -o tree --service "+kubeDNS.String())
	endpoints, err := s.dumped(ctx, "dns")
	s.check(err == nil && len(endpoints) == 2 && endpoints[0].Probability == 0.5 && endpoints[1].Probability == 0.5,
		"the two DNS pods share the queries half and half")
}

// dumped reads the endpoints of a kube-dns port out of `svcproxy dump`.
func (s *story) dumped(ctx context.Context, port string) ([]model.EndpointView, error) {
	out, err := s.onNode(ctx, "svcproxy dump -o json --service "+kubeDNS.String())
	if err != nil {
		return nil, err
	}
	var view model.View
	if err := json.Unmarshal([]byte(out), &view); err != nil {
		return nil, fmt.Errorf("reading what svcproxy dump printed: %w", err)
	}
	i := slices.IndexFunc(view.Services, func(v model.ServiceView) bool { return v.Name == kubeDNS.String()+":"+port })
	if i < 0 {
		return nil, fmt.Errorf("svcproxy dump shows no %v:%s", kubeDNS, port)
	}
	return view.Services[i].Endpoints, nil
}

func (s *story) connections(ctx context.Context) {
	s.title("The kernel's connection tracking remembers where each query went")
	out, ok := s.fromNode(ctx, "conntrack", "conntrack -L -p udp --orig-dst "+dnsAddress+" 2>/dev/null")
	if ok {
		s.check(strings.Contains(out, "dst="+dnsAddress) && strings.Contains(out, "src=10.244.0."),
			"a query to %s was translated, and its answer comes from a DNS pod", dnsAddress)
	}
}

func (s *story) losePod(ctx context.Context) {
	lost := s.dnsPods[0]
	s.title("A DNS pod dies, and queries go on")
	s.command("node", "(kill "+lost.String()+")")
	if err := s.kill(ctx, lost); err != nil {
		s.check(false, "%v", err)
		return
	}
	if err := s.writeSlices(kubeDNS, dnsPorts, s.dnsPods[1:]); err != nil {
		s.check(false, "%v", err)
		return
	}
	began := time.Now()
	err := until(ctx, 5*time.Second, func(ctx context.Context) error {
		for _, port := range []string{"dns", "dns-tcp"} {
			endpoints, err := s.dumped(ctx, port)
			if err != nil {
				return err
			}
			if len(endpoints) != 1 {
				return fmt.Errorf("%s still has %d endpoints", port, len(endpoints))
			}
		}
		return nil
	})
	if err != nil {
		s.check(false, "the dead pod is out: %v", err)
		return
	}
	s.check(true, "the dead pod is out %d ms after its EndpointSlice said so", time.Since(began).Milliseconds())
	line := "for i in 1 2 3 4 5 6 7 8 9 10; do dig +short +tries=1 +time=2 @" + dnsAddress + " " + webName + "; done"
	if out, ok := s.fromClient(ctx, "dig", line); ok {
		s.check(strings.Count(out, webAddress) == 10, "ten queries of ten were answered")
	}
	s.fromNode(ctx, "svcproxy", "svcproxy dump -o tree --service "+kubeDNS.String()+":dns")
}
