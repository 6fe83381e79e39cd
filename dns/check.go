package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// CheckOptions say how a server is asked.
type CheckOptions struct {
	Server netip.AddrPort
	// Dial opens the sockets; those of this process's network namespace where it is nil.
	Dial DialFunc
	// Concurrency is how many questions are under way at once; 16 where it is zero.
	Concurrency int
	// Timeout is for how long one answer is waited for, twice; 2 s where it is zero.
	Timeout time.Duration
}

// Difference is an answer that is not what the specification demands.
type Difference struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	Transport string `json:"transport"`
	Want      string `json:"want"`
	Got       string `json:"got"`
}

// Check asks a server, over UDP and TCP, for all that the specification demands of the Services, and for what it must say
// does not exist, and returns what differs from the Zone that was made of them, and how many questions were asked. TTLs,
// the order of records, priorities and weights are the server's own matter, and so are the names that it gives to
// endpoints without a hostname. An error means that the server could not be reached.
func Check(ctx context.Context, z *Zone, services []Service, o CheckOptions) (asked int, differences []Difference, err error) {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Concurrency == 0 {
		o.Concurrency = 16
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	c := &checker{zone: z, options: o}
	// One that answers nothing shall not be asked a thousand times.
	probe := mdns.Question{Name: "dns-version." + z.domain, Qtype: mdns.TypeTXT, Qclass: mdns.ClassINET}
	if _, err := c.ask(ctx, "udp", probe); err != nil {
		return 1, nil, fmt.Errorf("dns: ask %s: %w", o.Server, err)
	}
	questions := append([]mdns.Question{probe}, z.questions(services)...)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	for _, q := range questions {
		for _, transport := range []string{"udp", "tcp"} {
			group.Go(func() error {
				c.check(ctx, transport, q)
				return ctx.Err()
			})
		}
	}
	if err := group.Wait(); err != nil {
		return 2 * len(questions), nil, err
	}
	slices.SortFunc(c.differences, func(a, b Difference) int {
		return strings.Compare(a.Name+" "+a.Type+" "+a.Transport, b.Name+" "+b.Type+" "+b.Transport)
	})
	return 2 * len(questions), c.differences, nil
}

type checker struct {
	zone    *Zone
	options CheckOptions

	mu          sync.Mutex
	differences []Difference
}

func (c *checker) check(ctx context.Context, transport string, q mdns.Question) {
	answer := c.zone.Answer(q)
	want := c.zone.summary(answer.Rcode, answer.Answer)
	got := ""
	reply, err := c.ask(ctx, transport, q)
	switch {
	case err != nil:
		got = err.Error()
	case !reply.Response || len(reply.Question) != 1 || !strings.EqualFold(reply.Question[0].Name, q.Name):
		got = "an answer to another question"
	default:
		got = c.zone.summary(reply.Rcode, reply.Answer)
		if got == want && reply.Rcode != mdns.RcodeSuccess && !hasSOA(reply.Ns) {
			want, got = want+" with SOA", got+" without SOA"
		}
	}
	if got == want {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.differences = append(c.differences, Difference{Name: q.Name, Type: mdns.TypeToString[q.Qtype], Transport: transport, Want: want, Got: got})
}

func hasSOA(rrs []mdns.RR) bool {
	return slices.ContainsFunc(rrs, func(rr mdns.RR) bool { return rr.Header().Rrtype == mdns.TypeSOA })
}

// ask asks once more where nothing came: one packet may get lost.
func (c *checker) ask(ctx context.Context, transport string, q mdns.Question) (*mdns.Msg, error) {
	var errs []error
	for range 2 {
		reply, err := c.exchange(ctx, transport, q)
		if err == nil && reply.Truncated && transport == "udp" {
			return c.exchange(ctx, "tcp", q)
		}
		if err == nil {
			return reply, nil
		}
		errs = append(errs, err)
	}
	if errs[0].Error() == errs[1].Error() {
		return nil, errs[0]
	}
	return nil, errors.Join(errs...)
}

func (c *checker) exchange(ctx context.Context, transport string, q mdns.Question) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	conn, err := c.options.Dial(ctx, transport, c.options.Server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	m := new(mdns.Msg)
	m.Id, m.RecursionDesired, m.Question = mdns.Id(), true, []mdns.Question{q}
	m.SetEdns0(maxUDPSize, false)
	reply, _, err := (&mdns.Client{Net: transport, UDPSize: maxUDPSize}).ExchangeWithConnContext(ctx, m, &mdns.Conn{Conn: conn})
	return reply, err
}

// questions are those whose answers the specification settles.
func (z *Zone) questions(services []Service) []mdns.Question {
	seen := map[mdns.Question]bool{}
	var all []mdns.Question
	add := func(name string, types ...uint16) {
		for _, t := range types {
			q := mdns.Question{Name: name, Qtype: t, Qclass: mdns.ClassINET}
			if !seen[q] {
				seen[q] = true
				all = append(all, q)
			}
		}
	}
	for i := range services {
		s := &services[i]
		name := z.serviceName(s.Name)
		add(name, mdns.TypeA, mdns.TypeAAAA, mdns.TypeTXT)
		// How a pod's resolver comes to the name of another namespace: this one must not exist.
		add(strings.ToLower(s.Name.Name+"."+s.Name.Namespace+"."+s.Name.Namespace)+".svc."+z.domain, mdns.TypeA, mdns.TypeAAAA)
		add("svcproxy-does-not-exist."+name, mdns.TypeA, mdns.TypeAAAA)
		if s.ExternalName != "" {
			continue
		}
		for _, p := range s.Ports {
			add(portLabels(p)+name, mdns.TypeSRV)
		}
		for _, a := range s.ClusterIPs {
			add(arpaName(a.Unmap()), mdns.TypePTR)
		}
		add("_svcproxy-none._tcp."+name, mdns.TypeSRV)
		if len(s.ClusterIPs) > 0 {
			continue
		}
		for _, e := range s.Endpoints {
			for _, p := range e.Ports {
				add(portLabels(p)+name, mdns.TypeSRV)
			}
			if e.Hostname != "" {
				add(e.host()+"."+name, mdns.TypeA, mdns.TypeAAAA)
			}
			add(arpaName(e.Addr.Unmap().WithZone("")), mdns.TypePTR)
		}
	}
	return all
}

// summary is what of an answer the specification settles, as text. Names that a server chooses are *.
func (z *Zone) summary(rcode int, answer []mdns.RR) string {
	texts := []string{}
	if len(answer) > 0 {
		if alias, is := answer[0].(*mdns.CNAME); is {
			// What the other name leads to is not the cluster's.
			return "alias of " + mdns.CanonicalName(alias.Target)
		}
	}
	for _, rr := range answer {
		switch rr := rr.(type) {
		case *mdns.A:
			texts = append(texts, rr.A.String())
		case *mdns.AAAA:
			texts = append(texts, rr.AAAA.String())
		case *mdns.SRV:
			texts = append(texts, fmt.Sprintf("port %d at %s", rr.Port, z.anonymous(rr.Target)))
		case *mdns.PTR:
			texts = append(texts, z.anonymous(rr.Ptr))
		case *mdns.TXT:
			texts = append(texts, fmt.Sprintf("%q", rr.Txt))
		case *mdns.RRSIG, *mdns.OPT:
		default:
			texts = append(texts, mdns.TypeToString[rr.Header().Rrtype])
		}
	}
	slices.Sort(texts)
	switch {
	case len(texts) > 0:
		return strings.Join(texts, ", ")
	case rcode == mdns.RcodeSuccess:
		return "no records"
	}
	return mdns.RcodeToString[rcode]
}

// anonymous hides the label of an endpoint that has no hostname.
func (z *Zone) anonymous(name string) string {
	name = mdns.CanonicalName(name)
	labels := mdns.SplitDomainName(name)
	below := mdns.CountLabel("svc."+z.domain) + 2
	if len(labels) != below+1 || !mdns.IsSubDomain("svc."+z.domain, name) {
		return name
	}
	service := strings.Join(labels[1:3], ".")
	if e, ok := z.services.get(service); ok && e.hasHostname(labels[0]) {
		return name
	}
	return "*." + mdns.Fqdn(strings.Join(labels[1:], "."))
}

// hasHostname tells whether a label is an endpoint's own hostname and not one made of its address.
func (e *entry) hasHostname(label string) bool {
	targets := e.hosts[label]
	return len(targets) > 0 && Endpoint{Addr: targets[0].addr}.host() != label
}
