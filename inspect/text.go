package inspect

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"svcproxy/model"
)

// printable returns s with all that is no visible character in Go's notation: control characters, the
// terminal's escapes, what turns the direction of writing, and bytes that are not UTF-8. A backslash is
// doubled, so that nothing else looks like such a notation.
func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\\':
			b.WriteString(`\\`)
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		s = s[size:]
	}
	return b.String()
}

// addrPort returns "ip:port", or "[ip]:port" for IPv6; a missing address is shown as such.
func addrPort(a netip.Addr, port uint16) string {
	if !a.IsValid() {
		return "no address:" + strconv.Itoa(int(port))
	}
	// An address read from JSON may have a zone, which is any text.
	return printable(netip.AddrPortFrom(a, port).String())
}

// share returns a probability as a percentage with at most one decimal.
func share(p float64) string {
	switch {
	case math.IsNaN(p) || math.IsInf(p, 0):
		return "?"
	case p > 0 && p < 0.0005:
		return "<0.1%"
	}
	return strings.TrimSuffix(strconv.FormatFloat(p*100, 'f', 1, 64), ".0") + "%"
}

// place returns the address and port of a frontend, "*:port" for a node port, which is at whatever of the
// node's addresses node ports answer.
func place(f model.FrontendView) string {
	if !f.Address.IsValid() && f.Type == "NodePort" {
		return "*:" + strconv.Itoa(int(f.Port))
	}
	return addrPort(f.Address, f.Port)
}

// frontend returns a frontend as "ClusterIP 10.96.0.10:53".
func frontend(f model.FrontendView) string {
	return printable(f.Type) + " " + place(f)
}

// title returns the name of a Service port with its protocol.
func title(s model.ServiceView) string {
	return printable(s.Name) + " " + printable(s.Protocol)
}

// chain names the chain of a Service port, or says that there is none.
func chain(s model.ServiceView) string {
	if s.Chain == "" {
		return "no chain"
	}
	return printable(s.Chain)
}

// headline says what the View is of.
func headline(v model.View) string {
	// A Service port that is there in both families counts once.
	ports := map[string]struct{}{}
	for _, s := range v.Services {
		ports[title(s)] = struct{}{}
	}
	switch len(ports) {
	case 0:
		return printable(v.Backend) + ": no Services"
	case 1:
		return printable(v.Backend) + ": 1 Service port"
	}
	return fmt.Sprintf("%s: %d Service ports", printable(v.Backend), len(ports))
}
