package proxier

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	netutils "k8s.io/utils/net"

	"svcproxy/model"
)

// broadcast is everybody on the link.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// findings collects what is wrong with the fields of one object, so that all of it is reported at once.
type findings struct {
	object string // as "Service default/web"
	errs   []error
	notes  []string
}

// object names an API object for messages. Names that could not be names are quoted and cut short, since
// they may hold anything.
func object(kind, namespace, name string) string {
	if namespace == "" {
		return kind + " " + printable(name)
	}
	return kind + " " + printable(namespace) + "/" + printable(name)
}

// ObjectName names an API object as the messages of this package do: "Service default/web".
func ObjectName(kind, namespace, name string) string { return object(kind, namespace, name) }

func printable(name string) string {
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return fmt.Sprintf("%q", name)
}

// bad reports a field that makes the object unusable.
func (f *findings) bad(field, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s: %w", field, fmt.Errorf(format, args...)))
}

// note reports a field that is odd, though the object can be used without it.
func (f *findings) note(field, format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf("%s: %s: %s", f.object, field, fmt.Sprintf(format, args...)))
}

// err returns everything that makes the object unusable, in one line, or nil.
func (f *findings) err() error {
	if len(f.errs) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", f.object, fieldErrors(f.errs))
}

// fieldErrors are what is wrong with the fields of one object.
type fieldErrors []error

func (e fieldErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e fieldErrors) Unwrap() []error { return e }

// label checks a name that the API wants to be a DNS label: it ends up in comments, in hashes and in DNS.
func (f *findings) label(field, name string) {
	if wrong := validation.IsDNS1123Label(name); len(wrong) > 0 {
		f.bad(field, "%s is not a DNS label: %s", printable(name), wrong[0])
	}
}

// subdomain checks a name that the API wants to be a DNS name.
func (f *findings) subdomain(field, name string) {
	if wrong := validation.IsDNS1123Subdomain(name); len(wrong) > 0 {
		f.bad(field, "%s is not a DNS name: %s", printable(name), wrong[0])
	}
}

// port checks a port number.
func (f *findings) port(field string, number int32) uint16 {
	if number < 1 || number > 65535 {
		f.bad(field, "%d is not a port: want 1 to 65535", number)
		return 0
	}
	return uint16(number)
}

// protocol reads a protocol; none is TCP.
func (f *findings) protocol(field, name string) model.Protocol {
	if name == "" {
		return model.TCP
	}
	p, err := model.ParseProtocol(name)
	if err != nil {
		f.bad(field, "%w", err)
	}
	return p
}

// parseAddr reads an IP address. Old API objects may hold IPv4 addresses with leading zeros, which the API
// server and kube-proxy read as decimal; so are they here, and legacy says so. IPv4-mapped IPv6 addresses
// and zones are refused: the kernel's rules would never match them.
func parseAddr(s string) (a netip.Addr, legacy bool, err error) {
	a, err = netip.ParseAddr(s)
	switch {
	case err != nil:
		ip := netutils.ParseIPSloppy(s)
		if ip == nil || strings.Contains(s, ":") {
			return netip.Addr{}, false, fmt.Errorf("%s is not an IP address", printable(s))
		}
		a, _ = netip.AddrFromSlice(ip)
		return a.Unmap(), true, nil
	case a.Is4In6():
		return netip.Addr{}, false, fmt.Errorf("%s is an IPv4-mapped IPv6 address: write %s", s, a.Unmap())
	case a.Zone() != "":
		return netip.Addr{}, false, fmt.Errorf("%s has a zone", printable(s))
	}
	return a, false, nil
}

// addr reads an IP address, and notes one that is written the old way.
func (f *findings) addr(field, s string) (netip.Addr, error) {
	a, legacy, err := parseAddr(s)
	if legacy {
		f.note(field, "%s has leading zeros; read as %s", s, a)
	}
	return a, err
}

// prefix reads a CIDR, whose bits behind the prefix length are dropped.
func (f *findings) prefix(field, s string) (netip.Prefix, bool) {
	ip, bits, found := strings.Cut(s, "/")
	a, err := f.addr(field, ip)
	if !found || err != nil {
		f.bad(field, "%s is not a CIDR, such as 10.96.0.0/16", printable(s))
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(a.String() + "/" + bits)
	if err != nil {
		f.bad(field, "%s is not a CIDR, such as 10.96.0.0/16", printable(s))
		return netip.Prefix{}, false
	}
	return p.Masked(), true
}
