package nftables

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
)

// Text returns the table as nft prints it, in a form that `nft -f` loads. The same ruleset gives the same
// text. What others put into the table and svcproxy cannot express is a comment.
func (r *Ruleset) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", familyWord(r.Family), TableName)
	for _, spec := range setSpecs(r.Family) {
		if s := r.Sets[spec.Name]; s != nil && s.SetSpec == spec {
			r.writeSet(&b, s)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(r.Chains), compareChains) {
		r.writeChain(&b, name)
	}
	b.WriteString("}\n")
	return b.String()
}

// compareChains orders lb-10 after lb-9.
func compareChains(a, b string) int {
	m, aok := parseClass(a)
	n, bok := parseClass(b)
	if aok && bok {
		return m.compare(n)
	}
	return strings.Compare(a, b)
}

func (r *Ruleset) writeChain(b *strings.Builder, name string) {
	c := r.Chains[name]
	fmt.Fprintf(b, "\tchain %s {\n", name)
	if h := c.Hook; h.Type != "" {
		policy := "accept"
		if h.Drop {
			policy = "drop"
		}
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy %s;\n", h.Type, h.name(), h.Priority, policy)
	}
	for _, rule := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", rule.text(r.Family))
	}
	b.WriteString("\t}\n")
}

func (h Hook) name() string {
	if int(h.Number) < len(hookNames) {
		return hookNames[h.Number]
	}
	return fmt.Sprint(h.Number)
}

// writeSet declares a set by typeof: nft takes no other declaration of a key with an index.
func (r *Ruleset) writeSet(b *strings.Builder, s *Set) {
	kind := "set"
	if s.Map {
		kind = "map"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttypeof %s\n", kind, s.Name, r.typeOf(s.Name))
	switch {
	case s.Interval || s.Ranges:
		b.WriteString("\t\tflags interval\n")
	case s.Learned:
		b.WriteString("\t\tflags dynamic,timeout\n")
	}
	if s.Size > 0 {
		fmt.Fprintf(b, "\t\tsize %d\n", s.Size)
	}
	sep := "\t\telements = { "
	for _, el := range s.sorted() {
		b.WriteString(sep)
		b.WriteString(elementText(r.Family, s.SetSpec, el))
		sep = ",\n\t\t\t"
	}
	if len(s.Elements) > 0 {
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func (r *Ruleset) typeOf(set string) string {
	ip := familyWord(r.Family)
	frontend := ip + " daddr . meta l4proto . th dport"
	switch set {
	case endpointsMap, affinityEndpointsMap:
		return fmt.Sprintf("%s . numgen random mod 2 : %s daddr . th dport", frontend, ip)
	case affinityListsMap, affinityPicksMap:
		return frontend + " . numgen random mod 2 : meta mark"
	case affinityMap:
		return ip + " saddr . meta mark : meta mark"
	case servicesMap, servicesOutsideMap:
		return frontend + " : verdict"
	case limitedSet:
		return frontend
	case sourceRangesSet:
		return fmt.Sprintf("%s . %s saddr", frontend, ip)
	case hairpinSet:
		return fmt.Sprintf("%s saddr . %s daddr", ip, ip)
	case podNetsSet:
		return ip + " saddr"
	}
	return ip + " daddr"
}

// elementText returns an element as nft writes it.
func elementText(f model.Family, spec SetSpec, el KeyedElement) string {
	switch {
	case spec.Interval:
		return intervalText(el)
	case spec.Ranges:
		return rangeText(f, el.Key)
	case spec.Name == hairpinSet:
		return pairText(el.Key)
	}
	fields := fieldsText(f, el.Key)
	if el.Comment != "" {
		fields += fmt.Sprintf(" comment %q", el.Comment)
	}
	switch {
	case spec.Verdict:
		return fields + " : " + el.Data
	case spec.Map && spec.DataLen == 4:
		return fmt.Sprintf("%s : 0x%08x", fields, indexOf(el.Data))
	case spec.Map:
		return fields + " : " + fieldsText(f, el.Data)
	}
	return fields
}

// rangeText writes a frontend and the sources that may use it.
func rangeText(f model.Family, span string) string {
	n := len(span) / 2
	addr := f.Bits() / 8
	if n < addr+8 {
		return fmt.Sprintf("%x", span)
	}
	first, last := addrOf(span[n-addr:n]), addrOf(span[2*n-addr:])
	return fieldsText(f, span[:n-addr]) + " . " + spanText(first, last)
}

// fieldsText writes a concatenation: an address, and behind it nothing, a port, or protocol, port and index.
func fieldsText(f model.Family, b string) string {
	n := f.Bits() / 8
	if len(b) < n || len(b)%4 != 0 {
		return fmt.Sprintf("%x", b)
	}
	out := addrOf(b[:n]).String()
	switch rest := b[n:]; len(rest) {
	case 4:
		out += fmt.Sprintf(" . %d", portOf(rest))
	case 8, 12:
		out += fmt.Sprintf(" . %s . %d", protocolWord(rest[0]), portOf(rest[4:]))
		if len(rest) == 12 {
			out += fmt.Sprintf(" . %d", indexOf(rest[8:]))
		}
	}
	return out
}

func pairText(b string) string {
	return addrOf(b[:len(b)/2]).String() + " . " + addrOf(b[len(b)/2:]).String()
}

func indexOf(b string) uint32 { return binary.NativeEndian.Uint32([]byte(b)) }

func addrOf(b string) netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(b))
	return a
}

func portOf(b string) uint16 { return binary.BigEndian.Uint16([]byte(b)) }

func protocolWord(p byte) string {
	switch model.Protocol(p) {
	case model.TCP, model.UDP, model.SCTP:
		return strings.ToLower(model.Protocol(p).String())
	}
	return fmt.Sprint(p)
}

// intervalText writes an interval as the prefix that it is, or else as a range.
func intervalText(el KeyedElement) string {
	first := addrOf(el.Key)
	return spanText(first, lastBefore(first, el.Data))
}

func spanText(first, last netip.Addr) string {
	for bits := 0; bits <= first.BitLen(); bits++ {
		p := netip.PrefixFrom(first, bits)
		switch {
		case p.Masked() != p || lastOf(p) != last:
		case p.IsSingleIP():
			return first.String()
		default:
			return p.String()
		}
	}
	return fmt.Sprintf("%s-%s", first, last)
}

// lastBefore returns the last address of an interval of the family of first.
func lastBefore(first netip.Addr, end string) netip.Addr {
	if end != "" {
		return addrOf(end).Prev()
	}
	return addrOf(strings.Repeat("\xff", first.BitLen()/8))
}
