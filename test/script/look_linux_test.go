package script

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// cmdView compares a Service port as the kernel holds it: view NAME/PROTOCOL FRONTEND... -> ENDPOINT...
func (r *run) cmdView(s step) error {
	name, protocol, want := s.word(1), strings.ToUpper(s.word(2)), strings.Join(s.words[3:], " ")
	view, err := r.plane.View(r.t.Context(), r.family, r.world.Node.Path())
	if err != nil {
		return err
	}
	for _, v := range view.Services {
		if v.Name == name && v.Protocol == protocol {
			if got := viewLine(v); got != want {
				return fmt.Errorf("got %s", got)
			}
			return nil
		}
	}
	if want != "none" {
		return fmt.Errorf("%s over %s is not programmed", name, protocol)
	}
	return nil
}

func viewLine(v model.ServiceView) string {
	var words []string
	slices.SortStableFunc(v.Frontends, func(a, b model.FrontendView) int { return strings.Compare(a.Type, b.Type) })
	for _, f := range v.Frontends {
		at := ":" + strconv.Itoa(int(f.Port))
		if f.Address.IsValid() {
			at = net.JoinHostPort(f.Address.String(), strconv.Itoa(int(f.Port)))
		}
		words = append(words, strings.TrimSpace(f.Type+" "+at+" "+f.Action))
	}
	words = append(words, "->")
	for _, e := range v.Endpoints {
		at := net.JoinHostPort(e.Address.String(), strconv.Itoa(int(e.Port)))
		words = append(words, fmt.Sprintf("%s (%.0f%%)", at, e.Probability*100))
	}
	return strings.Join(words, " ")
}

// cmdRules looks for a line in the rules that the kernel holds: rules REGEXP
func (r *run) cmdRules(s step) error {
	pattern, err := regexp.Compile("(?m)" + s.rest(1))
	if err != nil {
		return err
	}
	if text := r.heldRules()[r.family].Text(); !pattern.MatchString(text) {
		return fmt.Errorf("not in the rules:\n%s", text)
	}
	return nil
}

// ruleset are the rules of either backend.
type ruleset interface {
	Text() string
	Trace(plan.Packet) plan.Outcome
}

// heldRules returns what the kernel holds.
func (r *run) heldRules() map[model.Family]ruleset {
	r.t.Helper()
	ctx, path, all := r.t.Context(), r.world.Node.Path(), map[model.Family]ruleset{}
	for _, f := range r.script.backendFamilies(r.family) {
		var err error
		if r.plane == dataplane.NFTables {
			all[f], err = nftables.Observe(ctx, nftables.Options{Family: f, NetNS: path})
		} else {
			all[f], err = iptables.Observe(ctx, iptables.Options{Family: f, NetNS: path, Binary: r.plane.Name})
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return all
}

// cmdOn runs a program at a place, which must succeed: on PLACE PROGRAM ARGUMENT...
func (r *run) cmdOn(s step) error {
	p := r.world.Place(s.word(1))
	if p == nil || len(s.words) < 3 {
		return fmt.Errorf("usage: on PLACE PROGRAM ARGUMENT..., and there is a place %q: %t", s.word(1), p != nil)
	}
	(&nstest.NS{Netns: p.Netns}).Run(r.t, s.word(2), s.words[3:]...)
	return nil
}

// cmdBlocked asks what the rules must drop for reasons that are none of a plan's: blocked FROM TO:PORT/PROTOCOL
func (r *run) cmdBlocked(s step) error {
	text := s.text + " silent"
	p, err := r.parseProbe(step{s.line, text, strings.Fields(text)})
	if err != nil {
		return err
	}
	return r.check(p)
}

// cmdRouteLocalhost makes a place send what is for 127.0.0.1 to a router, as an attacker would who is root there:
// route-localhost PLACE ROUTER
func (r *run) cmdRouteLocalhost(s step) error {
	p := r.world.Place(s.word(1))
	if p == nil {
		return fmt.Errorf("no place %q", s.word(1))
	}
	if err := p.SetSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
		return err
	}
	ns := &nstest.NS{Netns: p.Netns}
	for _, args := range []string{"rule add pref 10 lookup local", "rule del pref 0", "rule add pref 5 to 127.0.0.1 lookup 77",
		"route add 127.0.0.1 dev eth0 table 77 via " + s.word(2) + " src " + p.Addr(model.IPv4).String()} {
		ns.Run(r.t, "ip", strings.Fields(args)...)
	}
	return nil
}

// cmdOpen opens a connection that stays, and asks once: open NAME FROM TO:PORT/PROTOCOL EXPECTATION
func (r *run) cmdOpen(s step) error {
	if len(s.words) < 5 {
		return fmt.Errorf("usage: open NAME FROM TO:PORT/PROTOCOL EXPECTATION")
	}
	text := "probe " + s.rest(2)
	p, err := r.parseProbe(step{s.line, text, strings.Fields(text)})
	if err != nil {
		return err
	}
	c, err := p.from.Dial(p.Question)
	if err != nil {
		return err
	}
	r.t.Cleanup(c.Close)
	r.conns[s.word(1)] = c
	got, err := c.Ask()
	if err != nil {
		return err
	}
	return p.judge(got)
}

// cmdAsk asks again on a connection that was opened, until the answer is as expected, since flows are looked
// after once the rules stand: ask NAME EXPECTATION
func (r *run) cmdAsk(s step) error {
	c := r.conns[s.word(1)]
	if c == nil {
		return fmt.Errorf("no connection %q", s.word(1))
	}
	e, err := r.parseExpectation(s.words[2:])
	if err != nil {
		return err
	}
	return r.poll(patience, func() error {
		got, err := c.Ask()
		if err != nil {
			return err
		}
		return e.judge(got)
	})
}

// cmdFlows waits until connection tracking has so many flows to an address: flows TO:PORT/PROTOCOL NUMBER
func (r *run) cmdFlows(s step) error {
	to, protocol, err := r.parseTo(s.word(1))
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(s.word(2))
	if err != nil {
		return err
	}
	node := &nstest.NS{Netns: r.world.Node.Netns}
	return r.poll(patience, func() error {
		listed := node.Run(r.t, "conntrack", "-L", "-f", strings.ToLower(r.family.String()), "-p", strings.ToLower(protocol.String()),
			"--orig-dst", to.Addr().String(), "--orig-port-dst", strconv.Itoa(int(to.Port())))
		if n := strings.Count(listed, "\n"); n != want {
			return fmt.Errorf("%d flows:\n%s", n, listed)
		}
		return nil
	})
}

// cmdHealth asks as a load balancer does: health FROM TO:PORT STATUS [TEXT IN THE ANSWER]
func (r *run) cmdHealth(s step) error {
	from := r.world.Place(s.word(1))
	to, err := r.addrPort(s.word(2))
	if from == nil || err != nil {
		return fmt.Errorf("no place %q, or %w", s.word(1), err)
	}
	return r.poll(patience, func() error {
		status, body, err := httpGet(r.t.Context(), from, to.String())
		if s.word(3) == "refused" {
			if err == nil {
				return fmt.Errorf("got %s", status)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if !strings.HasPrefix(status, s.word(3)) || !strings.Contains(body, s.rest(4)) {
			return fmt.Errorf("got %s: %s", status, body)
		}
		return nil
	})
}

func httpGet(ctx context.Context, from *world.Place, at string) (status, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return from.Netns.Dial(ctx, network, addr)
		}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/", nil)
	if err != nil {
		return "", "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return response.Status, fmt.Sprint(response.Header, " ", string(bytes.TrimSpace(b))), err
}
