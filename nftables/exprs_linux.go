package nftables

import (
	"strings"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// layout is where a family's headers have their addresses, and in which of the 4-byte registers rules put the
// fields of a concatenation that begins with an address in register 0. They are those that nft chooses, if
// nft can be told the rule.
type layout struct {
	family                            byte
	saddrAt, daddrAt, length, words   uint32
	daddr, proto, port, index         uint32
	second                            uint32 // second address of a pair
	client, list, value, mark, source uint32 // of session affinity
	portUnreachable                   uint8
	loopback                          []byte
}

func layoutOf(f model.Family) layout {
	l := layout{family: unix.NFPROTO_IPV4, saddrAt: 12, daddrAt: 16, length: 4, portUnreachable: 3, loopback: []byte{127}}
	if f == model.IPv6 {
		l = layout{family: unix.NFPROTO_IPV6, saddrAt: 8, daddrAt: 24, length: 16, portUnreachable: 4,
			loopback: []byte{15: 1}}
	}
	l.words = l.length / 4
	l.daddr = register(0)
	l.proto, l.port, l.index = register(l.words), register(l.words+1), register(l.words+2)
	l.second, l.source = l.proto, register(l.words+2)
	l.client, l.list, l.value, l.mark = register(l.words+3), register(2*l.words+3), register(2*l.words+4), register(15)
	return l
}

// register returns the number of the n-th register of 4 bytes. Registers of 16 bytes have the numbers 1 to 4,
// those of 4 bytes 8 and up, and the kernel reports the first of four as the longer one.
func register(n uint32) uint32 {
	if n%4 == 0 {
		return 1 + n/4
	}
	return 8 + n
}

// exprs returns a rule's expressions: the very ones that nft compiles its text to, save those of session
// affinity.
func (r Rule) exprs(f model.Family) []expr.Any {
	l := layoutOf(f)
	switch r.Kind {
	case Dispatch:
		return append(r.frontend(l), verdictMap(servicesMap))
	case DispatchOutside:
		return join(r.notPods(l), l.fib(true, expr.CmpOpNeq), r.frontend(l), one(verdictMap(servicesOutsideMap)))
	case NodePorts:
		return join(one(l.addr(l.daddrAt, 1)), one(&expr.Lookup{SourceRegister: 1, SetName: nodePortNetsSet}), l.notLoopback(),
			l.fib(false, expr.CmpOpEq), one(&expr.Verdict{Kind: expr.VerdictJump, Chain: nodePortsChain}))
	case UnknownPort:
		return []expr.Any{l.addr(l.daddrAt, 1), &expr.Lookup{SourceRegister: 1, SetName: clusterIPsSet},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: noEndpointsChain}}
	case Unallocated:
		return []expr.Any{l.addr(l.daddrAt, 1), &expr.Lookup{SourceRegister: 1, SetName: serviceCIDRsSet},
			&expr.Verdict{Kind: expr.VerdictDrop}}
	case Limited:
		return join(bit(&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, ctStateNew), r.frontend(l),
			one(&expr.Lookup{SourceRegister: 1, SetName: limitedSet}), one(&expr.Verdict{Kind: expr.VerdictGoto, Chain: sourceRangesChain}))
	case AllowedSource:
		return l.allowedSource()
	case Mark:
		return append(r.notPods(l), setMark(^r.Mark, r.Mark)...)
	case Stick:
		return r.stick(l)
	case PickAndStick:
		return r.pickAndStick(l)
	case Balance:
		return append(r.frontend(l), l.random(r), &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: endpointsMap}, l.dnat())
	case Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case ResetTCP:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(model.TCP)}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case Unreachable:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: l.portUnreachable}}
	case MasqueradeMarked:
		return join(one(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}), masked(r.Mark, 0),
			one(&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(r.Mark)}),
			setMark(^r.Mark, 0), one(&expr.Masq{FullyRandom: true}))
	case MasqueradeHairpin:
		return join(bit(&expr.Ct{Register: 1, Key: expr.CtKeySTATUS}, ipsDstNAT), one(l.addr(l.saddrAt, 1)), one(l.addr(l.daddrAt, l.second)),
			one(&expr.Lookup{SourceRegister: 1, SetName: hairpinSet}), one(&expr.Masq{FullyRandom: true}))
	}
	return nil
}

func one(e expr.Any) []expr.Any { return []expr.Any{e} }

func join(parts ...[]expr.Any) (out []expr.Any) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func verdictMap(name string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: name}
}

func (l layout) addr(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: l.length}
}

// behindAddr loads what a frontend is known by beside its address.
func (l layout) behindAddr() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: l.proto},
		&expr.Payload{DestRegister: l.port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// frontend loads what a frontend is known by.
func (r Rule) frontend(l layout) []expr.Any {
	load := one(l.addr(l.daddrAt, 1))
	if r.NodePort {
		none := make([]byte, l.length)
		load = append(load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: l.length, Mask: none, Xor: none})
	}
	return append(load, l.behindAddr()...)
}

// allowedSource has a byte order conversion of one byte, which does nothing, because nft has it there.
func (l layout) allowedSource() []expr.Any {
	return []expr.Any{l.addr(l.daddrAt, 1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: l.proto},
		&expr.Byteorder{SourceRegister: l.proto, DestRegister: l.proto, Op: expr.ByteorderHton, Len: 1, Size: 2},
		&expr.Payload{DestRegister: l.port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		l.addr(l.saddrAt, l.source),
		&expr.Lookup{SourceRegister: 1, SetName: sourceRangesSet},
		&expr.Verdict{Kind: expr.VerdictAccept}}
}

func (l layout) dnat() expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(l.family), RegAddrMin: 1, RegProtoMin: l.proto}
}

// random draws an index of a rule's.
func (l layout) random(r Rule) expr.Any {
	return &expr.Numgen{Register: l.index, Modulus: r.Modulus, Type: unix.NFT_NG_RANDOM, Offset: r.Offset}
}

// fib compares whether the source or the destination is an address of the node.
func (l layout) fib(source bool, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: source, FlagDADDR: !source},
		&expr.Cmp{Op: op, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func (l layout) notLoopback() []expr.Any {
	n := uint32(len(l.loopback))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: l.daddrAt, Len: n},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: l.loopback},
	}
}

// notPods is the test of Rule.NotPods.
func (r Rule) notPods(l layout) []expr.Any {
	switch r.NotPods {
	case "":
		return nil
	case fromPodNets:
		return []expr.Any{l.addr(l.saddrAt, 1), &expr.Lookup{SourceRegister: 1, SetName: podNetsSet, Invert: true}}
	}
	name, wildcard := strings.CutSuffix(r.NotPods, "+")
	data := []byte(name)
	if !wildcard {
		data = append(data, make([]byte, max(0, unix.IFNAMSIZ-len(data)))...)
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data}}
}

const (
	// ipsDstNAT is the bit of a connection's status that tells that its destination was translated.
	ipsDstNAT = 1 << 5
	// ctStateNew is the bit of a packet that begins a connection.
	ctStateNew = 1 << 3
)

// masked masks register 1.
func masked(mask, xor uint32) []expr.Any {
	return one(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor)})
}

// bit tests a bit of what is loaded into register 1.
func bit(load expr.Any, b uint32) []expr.Any {
	return join(one(load), masked(b, 0), one(&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}))
}

func setMark(mask, xor uint32) []expr.Any {
	return join(one(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}), masked(mask, xor),
		one(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}))
}

// Session affinity carries a map's value to the next lookup in the packet's mark, since a lookup in a register
// that holds a map's value makes nft 1.0.6 abort when it lists the rule. The mark is put back at once, before
// anything that may end the rule.

// carry puts the value of a lookup into another register.
func (l layout) carry(into uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: l.value, SourceRegister: true},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: into},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: l.mark, SourceRegister: true},
	}
}

// lookup looks a value of 4 bytes up.
func (l layout) lookup(from uint32, set string) []expr.Any {
	return one(&expr.Lookup{SourceRegister: from, DestRegister: l.value, IsDestRegSet: true, SetName: set})
}

// client loads the client's address and the id of the list, which the map affinity has for its key.
func (r Rule) client(l layout) []expr.Any {
	return join(one(&expr.Meta{Key: expr.MetaKeyMARK, Register: l.mark}), r.frontend(l),
		one(&expr.Numgen{Register: l.index, Modulus: 1, Type: unix.NFT_NG_RANDOM, Offset: r.Offset}),
		l.lookup(1, affinityListsMap), l.carry(l.list), one(l.addr(l.saddrAt, l.client)))
}

// bound translates to the endpoint whose id is in the register index.
func (l layout) bound() expr.Any {
	return &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: affinityEndpointsMap}
}

func (r Rule) remember(l layout) expr.Any {
	return &expr.Dynset{SrcRegKey: l.client, SrcRegData: l.index, SetName: affinityMap, Operation: unix.NFT_DYNSET_OP_UPDATE,
		Timeout: time.Duration(r.Timeout) * time.Second}
}

// stick finds the client's endpoint. That the map affinity names one does not mean that it is there still.
func (r Rule) stick(l layout) []expr.Any {
	return join(r.client(l), l.lookup(l.client, affinityMap), l.carry(l.index), []expr.Any{l.bound(), r.remember(l), l.dnat()})
}

// pickAndStick forgets the client's endpoint first, as an update leaves the value of an element that is there.
func (r Rule) pickAndStick(l layout) []expr.Any {
	forget := &expr.Dynset{SrcRegKey: l.client, SrcRegData: l.index, SetName: affinityMap, Operation: dynsetDelete}
	return join(r.client(l), one(l.random(r)), l.lookup(1, affinityPicksMap), l.carry(l.index),
		[]expr.Any{l.bound(), forget, r.remember(l), l.dnat()})
}

// dynsetDelete is NFT_DYNSET_OP_DELETE, which x/sys lacks.
const dynsetDelete = 2
