package dns

import (
	mdns "github.com/miekg/dns"
)

// maxUDPSize is the largest UDP message sent or asked for, in bytes: it fits every link of IPv6 without
// fragments (DNS flag day 2020).
const maxUDPSize = 1232

// accept looks at a message's header before the rest is read: answers are dropped, so that two servers
// can't be made to talk to each other, and any operation but a query is not implemented.
func accept(h mdns.Header) mdns.MsgAcceptAction {
	const responseBit = 1 << 15
	if h.Bits&responseBit != 0 {
		return mdns.MsgIgnore
	}
	if opcode := int(h.Bits>>11) & 0xf; opcode != mdns.OpcodeQuery {
		return mdns.MsgRejectNotImplemented
	}
	return mdns.DefaultMsgAcceptFunc(h)
}

// udpSize returns how large a reply over UDP may be, in bytes.
func udpSize(req *mdns.Msg) int {
	if opt := req.IsEdns0(); opt != nil {
		return min(maxUDPSize, max(mdns.MinMsgSize, int(opt.UDPSize())))
	}
	return mdns.MinMsgSize
}

// respond makes the reply to a query, of at most limit bytes. turn changes from query to query: it
// rotates records of one kind, so that clients that take the first are spread.
func respond(z *Zone, req *mdns.Msg, limit, turn int) *mdns.Msg {
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
		ans := z.Answer(req.Question[0])
		reply.Rcode = ans.Rcode
		reply.Authoritative = ans.Authoritative
		reply.Answer = rotate(ans.Answer, turn)
		reply.Ns = ans.Authority
		reply.Extra = append(ans.Additional, reply.Extra...)
	}
	fit(reply, limit)
	return reply
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
