package world

import (
	"fmt"
	"net/netip"

	"svcproxy/model"
)

// Question is a connection to try.
type Question struct {
	Protocol model.Protocol
	To       netip.AddrPort
	// Source is where it comes from. Without an address the kernel chooses one of the asker's; port 0 is a port
	// from which this place has asked nothing by that protocol yet, so that no tracked flow answers instead of
	// the rules.
	Source netip.AddrPort
}

// Verdict is what became of a connection.
type Verdict uint8

// What can become of a connection.
const (
	// Silent: nothing came back, though the same path carried others meanwhile.
	Silent Verdict = iota
	// Answered: a server answered.
	Answered
	// Refused: the sender was told that nobody is there, by a TCP reset or an ICMP error.
	Refused
	// Unreachable: a router said that there is no such host or no way to it.
	Unreachable
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	if names := []string{"silent", "answered", "refused", "unreachable"}; int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}

// Answer is what a server tells a client.
type Answer struct {
	// Endpoint is the server's own address, Source the client's as the server sees it.
	Endpoint, Source netip.AddrPort
}

// String returns "endpoint source", which servers send.
func (a Answer) String() string { return fmt.Sprint(a.Endpoint, " ", a.Source) }

func parseAnswer(b []byte) (a Answer, err error) {
	var endpoint, source string
	if _, err = fmt.Sscan(string(b), &endpoint, &source); err != nil {
		return a, fmt.Errorf("answer %q: %w", b, err)
	}
	if a.Endpoint, err = netip.ParseAddrPort(endpoint); err == nil {
		a.Source, err = netip.ParseAddrPort(source)
	}
	return a, err
}

// Result is what became of a connection, in full.
type Result struct {
	Verdict
	// Answer is valid if Verdict is Answered.
	Answer
	// From is the source port that was used.
	From uint16
	// Lost is how many SYNs TCP had to send again. A right data plane loses none.
	Lost int
}

// String returns the result in one line.
func (r Result) String() string {
	if r.Verdict != Answered {
		return r.Verdict.String()
	}
	s := fmt.Sprintf("answered by %s, seen as %s", r.Endpoint, r.Source)
	if r.Lost > 0 {
		s += fmt.Sprintf(", after %d lost SYN", r.Lost)
	}
	return s
}
