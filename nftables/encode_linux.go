package nftables

import (
	"fmt"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// layout is where a family's headers have their addresses, and in which registers nft puts the fields of a
// concatenation that begins in register 1: registers of 16 bytes have the numbers 1 to 4, those of 4 bytes
// 8 and up, and the kernel reports the first of four as the longer one.
type layout struct {
	family               byte
	saddr, daddr, length uint32
	proto, port, index   uint32
	secondAddr           uint32
	originalDaddr        expr.CtKey
	portUnreachable      uint8
}

func layoutOf(f model.Family) layout {
	if f == model.IPv4 {
		return layout{family: unix.NFPROTO_IPV4, saddr: 12, daddr: 16, length: 4, proto: 9, port: 10, index: 11,
			secondAddr: 9, originalDaddr: expr.CtKeyDSTIP, portUnreachable: 3}
	}
	return layout{family: unix.NFPROTO_IPV6, saddr: 8, daddr: 24, length: 16, proto: 2, port: 13, index: 14,
		secondAddr: 2, originalDaddr: expr.CtKeyDSTIP6, portUnreachable: 4}
}

func table(f model.Family) *nft.Table {
	return &nft.Table{Family: nft.TableFamily(layoutOf(f).family), Name: TableName}
}

// exprs returns a rule's expressions, the very ones that nft compiles its text to.
func (r Rule) exprs(f model.Family) []expr.Any {
	l := layoutOf(f)
	switch r.Kind {
	case Dispatch:
		return append(l.frontend(), &expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: servicesMap})
	case UnknownPort:
		return []expr.Any{l.addr(l.daddr, 1), &expr.Lookup{SourceRegister: 1, SetName: clusterIPsSet},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: noEndpointsChain}}
	case Unallocated:
		return []expr.Any{l.addr(l.daddr, 1), &expr.Lookup{SourceRegister: 1, SetName: serviceCIDRsSet},
			&expr.Verdict{Kind: expr.VerdictDrop}}
	case Balance:
		return append(l.frontend(),
			&expr.Numgen{Register: l.index, Modulus: r.Modulus, Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: endpointsMap},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(l.family), RegAddrMin: 1, RegProtoMin: l.proto})
	case Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case ResetTCP:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(model.TCP)}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case Unreachable:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: l.portUnreachable}}
	case MasqueradeHairpin:
		return append(translated(), l.addr(l.saddr, 1), l.addr(l.daddr, l.secondAddr),
			&expr.Lookup{SourceRegister: 1, SetName: hairpinSet}, &expr.Masq{FullyRandom: true})
	case MasqueradeOutside:
		return append(l.toClusterIP(), l.addr(l.saddr, 1),
			&expr.Lookup{SourceRegister: 1, SetName: podNetsSet, Invert: true}, &expr.Masq{FullyRandom: true})
	case MasqueradeAll:
		return append(l.toClusterIP(), &expr.Masq{FullyRandom: true})
	}
	return nil
}

func (l layout) addr(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: l.length}
}

// frontend loads what a frontend is known by.
func (l layout) frontend() []expr.Any {
	return []expr.Any{
		l.addr(l.daddr, 1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: l.proto},
		&expr.Payload{DestRegister: l.port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// ipsDstNAT is the bit of a connection's status that tells that its destination was translated.
const ipsDstNAT = 1 << 5

func translated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func (l layout) toClusterIP() []expr.Any {
	return append(translated(), &expr.Ct{Register: 1, Key: l.originalDaddr}, &expr.Lookup{SourceRegister: 1, SetName: clusterIPsSet})
}

// encodeSet returns a set for google/nftables. The types serve only those who list it: the index, which nft
// prints as a number of a type that it cannot declare, goes as a mark.
func encodeSet(f model.Family, s *Set) *nft.Set {
	addr := nft.TypeIPAddr
	if f == model.IPv6 {
		addr = nft.TypeIP6Addr
	}
	frontend := []nft.SetDatatype{addr, nft.TypeInetProto, nft.TypeInetService}
	out := &nft.Set{Table: table(f), Name: s.Name, IsMap: s.Map, Interval: s.Interval, Size: s.Size, KeyType: addr}
	switch s.Name {
	case endpointsMap:
		out.KeyType = nft.MustConcatSetType(append(frontend, nft.TypeMark)...)
		out.DataType = nft.MustConcatSetType(addr, nft.TypeInetService)
		out.KeyByteOrder = binaryutil.NativeEndian
	case servicesMap:
		out.KeyType, out.DataType = nft.MustConcatSetType(frontend...), nft.TypeVerdict
	case hairpinSet:
		out.KeyType = nft.MustConcatSetType(addr, addr)
	}
	return out
}

// encodeElements returns elements for google/nftables; for a deletion by their keys alone.
func encodeElements(s *Set, elements []KeyedElement, keysOnly bool) ([]nft.SetElement, error) {
	if s.Interval {
		return encodeIntervals(elements), nil
	}
	out := make([]nft.SetElement, len(elements))
	b := make([]byte, 0, len(elements)*int(s.KeyLen+s.DataLen)) // for all of them at once
	bytesOf := func(text string) []byte {
		b = append(b, text...)
		return b[len(b)-len(text) : len(b) : len(b)]
	}
	verdicts := map[string]*expr.Verdict{}
	for i, el := range elements {
		out[i].Key = bytesOf(el.Key)
		if keysOnly {
			continue
		}
		out[i].Comment = el.Comment
		switch {
		case s.Verdict:
			if verdicts[el.Data] == nil {
				v, err := parseVerdict(el.Data)
				if err != nil {
					return nil, err
				}
				verdicts[el.Data] = v
			}
			out[i].VerdictData = verdicts[el.Data]
		case s.Map:
			out[i].Val = bytesOf(el.Data)
		}
	}
	return out, nil
}

// encodeIntervals gives each interval its two ends.
func encodeIntervals(elements []KeyedElement) []nft.SetElement {
	var out []nft.SetElement
	for _, el := range elements {
		out = append(out, nft.SetElement{Key: []byte(el.Key)})
		if el.Data != "" {
			out = append(out, nft.SetElement{Key: []byte(el.Data), IntervalEnd: true})
		}
	}
	return out
}

// parseVerdict reads a verdict in nft's words.
func parseVerdict(s string) (*expr.Verdict, error) {
	word, chain, _ := strings.Cut(s, " ")
	switch {
	case word == "goto" && chain != "":
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}, nil
	case s == "drop":
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	}
	return nil, fmt.Errorf("verdict %q is none that svcproxy writes", s)
}

// verdictText writes a verdict in nft's words.
func verdictText(kind expr.VerdictKind, chain string) string {
	switch kind {
	case expr.VerdictGoto:
		return "goto " + chain
	case expr.VerdictJump:
		return "jump " + chain
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictContinue:
		return "continue"
	}
	return fmt.Sprintf("verdict %d", kind)
}
