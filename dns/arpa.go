package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// arpaName returns the reverse name of an address: "10.0.96.10.in-addr.arpa." for 10.96.0.10, nibbles
// under ip6.arpa for IPv6 (RFC 3596).
func arpaName(a netip.Addr) string { return arpaSuffix(a, a.BitLen()) }

// arpaSuffix returns the reverse name of the first bits of an address, a multiple of 8 for IPv4 and of
// 4 for IPv6.
func arpaSuffix(a netip.Addr, bits int) string {
	raw := a.AsSlice()
	var b strings.Builder
	if a.Is4() {
		for i := bits/8 - 1; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(raw[i])))
			b.WriteByte('.')
		}
		return b.String() + "in-addr.arpa."
	}
	for i := bits/4 - 1; i >= 0; i-- {
		nibble := raw[i/2] >> 4
		if i%2 == 1 {
			nibble = raw[i/2] & 0xf
		}
		b.WriteString(strconv.FormatUint(uint64(nibble), 16))
		b.WriteByte('.')
	}
	return b.String() + "ip6.arpa."
}

// arpaZones returns the tops of the reverse zones that together hold exactly a prefix: one where it ends
// between two labels, else one for each value of the label that it ends in (10.96.0.0/12 is 96 to 111
// under 10.in-addr.arpa), so that nothing is claimed outside of it.
func arpaZones(p netip.Prefix) []string {
	p = p.Masked()
	label := 4
	if p.Addr().Is4() {
		label = 8
	}
	bits := (p.Bits() + label - 1) / label * label
	zones := make([]string, 0, 1<<(bits-p.Bits()))
	raw := p.Addr().AsSlice()
	for i := range 1 << (bits - p.Bits()) {
		next := append([]byte(nil), raw...)
		if bits > 0 {
			// The label that the prefix ends in lies within one byte.
			next[(bits-1)/8] |= byte(i << ((8 - bits%8) % 8))
		}
		a, _ := netip.AddrFromSlice(next)
		zones = append(zones, arpaSuffix(a, bits))
	}
	return zones
}

// arpaAddr reads the reverse name of a whole address, in lower case.
func arpaAddr(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(digits, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	digits, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(digits) != 63 {
		return netip.Addr{}, false
	}
	var raw [16]byte
	for i := range 32 {
		n, ok := nibble(digits[62-2*i])
		if !ok || i > 0 && digits[63-2*i] != '.' {
			return netip.Addr{}, false
		}
		raw[i/2] = raw[i/2]<<4 | n
	}
	// A mapped address is looked for as the IPv4 address that it is elsewhere too.
	return netip.AddrFrom16(raw).Unmap(), true
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// arpaPart tells whether a name is the end of the reverse name of an address.
func arpaPart(name string) bool {
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(digits, ".")
		return len(labels) < 4 && !slices.ContainsFunc(labels, func(l string) bool {
			_, err := strconv.ParseUint(l, 10, 8)
			return err != nil || len(l) > 1 && l[0] == '0'
		})
	}
	digits, ok := strings.CutSuffix(name, ".ip6.arpa.")
	labels := strings.Split(digits, ".")
	return ok && len(labels) < 32 && !slices.ContainsFunc(labels, func(l string) bool {
		if len(l) != 1 {
			return true
		}
		_, ok := nibble(l[0])
		return !ok
	})
}
