package dns

import (
	"encoding/binary"
	"slices"

	mdns "github.com/miekg/dns"
)

// maxUDPSize is the largest UDP message sent or asked for, in bytes: it fits every link of IPv6 without
// fragments (DNS flag day 2020).
const maxUDPSize = 1232

// header reads the first four bytes of a message, which must have a header.
func header(packet []byte) (mdns.MsgHdr, bool) {
	const length = 12
	if len(packet) < length {
		return mdns.MsgHdr{}, false
	}
	const responseBit, recursionBit = 1 << 15, 1 << 8
	bits := binary.BigEndian.Uint16(packet[2:])
	return mdns.MsgHdr{
		Id: binary.BigEndian.Uint16(packet), Response: bits&responseBit != 0, Opcode: int(bits>>11) & 0xf, RecursionDesired: bits&recursionBit != 0,
	}, true
}

// refuse makes a reply that has a header only.
func refuse(head mdns.MsgHdr, rcode int) *mdns.Msg {
	head.Response, head.Rcode = true, rcode
	return &mdns.Msg{MsgHdr: head}
}

// udpSize returns how large a reply over UDP may be, in bytes.
func udpSize(req *mdns.Msg) int {
	if opt := req.IsEdns0(); opt != nil {
		return min(maxUDPSize, max(mdns.MinMsgSize, int(opt.UDPSize())))
	}
	return mdns.MinMsgSize
}

// resolver answers a question that is not the Zone's.
type resolver func(mdns.Question) *mdns.Msg

// respond makes the reply to a query, of at most limit bytes. Questions outside the Zone are resolved, or refused
// where there is no resolver. turn changes from query to query: it rotates records of one kind, so that clients that take the first are spread.
func respond(z *Zone, resolve resolver, req *mdns.Msg, limit, turn int) *mdns.Msg {
	reply := new(mdns.Msg)
	reply.SetReply(req)
	opts := options(req)
	if len(opts) > 0 {
		reply.SetEdns0(maxUDPSize, opts[0].Do())
	}
	switch {
	case req.Opcode != mdns.OpcodeQuery:
		reply.Rcode = mdns.RcodeNotImplemented
	case len(req.Question) != 1 || len(opts) > 1 || req.Question[0].Qtype == mdns.TypeOPT:
		reply.Rcode = mdns.RcodeFormatError
	case len(opts) == 1 && opts[0].Version() != 0:
		reply.Rcode = mdns.RcodeBadVers
	case z == nil:
		reply.Rcode = mdns.RcodeServerFailure
	default:
		reply.RecursionAvailable = resolve != nil
		if !req.RecursionDesired {
			resolve = nil
		}
		fill(reply, z, resolve, req.Question[0], turn)
	}
	fit(reply, limit)
	return reply
}

// fill answers the question.
func fill(reply *mdns.Msg, z *Zone, resolve resolver, q mdns.Question, turn int) {
	ans := z.Answer(q)
	reply.Rcode = ans.Rcode
	reply.Authoritative = ans.Authoritative
	reply.Answer, reply.Ns = ans.Answer, ans.Authority
	extra := ans.Additional
	if next, ok := outside(ans, q); ok && resolve != nil {
		m := resolve(next)
		reply.Rcode = m.Rcode
		reply.Authoritative = ans.Authoritative || m.Authoritative && len(ans.Answer) == 0
		reply.AuthenticatedData = m.AuthenticatedData && len(ans.Answer) == 0
		reply.Answer, reply.Ns = append(reply.Answer, m.Answer...), m.Ns
		extra = slices.DeleteFunc(slices.Clone(m.Extra), func(rr mdns.RR) bool { return rr.Header().Rrtype == mdns.TypeOPT })
	}
	reply.Answer = rotate(reply.Answer, turn)
	reply.Extra = append(extra, reply.Extra...)
}

// outside returns the question that is left for others to answer, if there is one.
func outside(ans Answer, q mdns.Question) (mdns.Question, bool) {
	switch {
	case ans.Outside != "":
		q.Name = ans.Outside
		return q, true
	case ans.Authoritative, q.Qclass != mdns.ClassINET, q.Qtype == mdns.TypeAXFR, q.Qtype == mdns.TypeIXFR:
		return q, false
	}
	return q, true
}

// options returns the OPT records of a query. More than one is a format error (RFC 6891, 6.1.1).
func options(req *mdns.Msg) []*mdns.OPT {
	var opts []*mdns.OPT
	for _, rr := range req.Extra {
		if opt, ok := rr.(*mdns.OPT); ok {
			opts = append(opts, opt)
		}
	}
	return opts
}

// rotate turns a list of records of one kind; other lists, aliases and what they lead to, keep their order.
func rotate(rrs []mdns.RR, turn int) []mdns.RR {
	for _, rr := range rrs {
		if rr.Header().Rrtype != rrs[0].Header().Rrtype {
			return rrs
		}
	}
	if len(rrs) < 2 || rrs[0].Header().Rrtype == mdns.TypeCNAME {
		return rrs
	}
	at := turn % len(rrs)
	return append(append(make([]mdns.RR, 0, len(rrs)), rrs[at:]...), rrs[:at]...)
}

// fit makes the reply at most limit bytes long. Additional addresses go first, silently, since nobody
// asked for them; an answer that is cut is marked as truncated (RFC 2181, 9).
func fit(reply *mdns.Msg, limit int) {
	reply.Compress = true
	if reply.Len() > limit {
		opt := reply.IsEdns0()
		reply.Extra = nil
		if opt != nil {
			reply.Extra = []mdns.RR{opt}
		}
	}
	reply.Truncate(limit)
	reply.Compress = true // which Truncate undoes where it was not needed
}
