package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
)

// FuzzHandleMsg feeds packets to what the server does between reading and writing one.
func FuzzHandleMsg(f *testing.F) {
	for _, cases := range [][]Case{clusterIPCases, emptyCases, refusedCases, reverseCases, headlessCases, aliasCases} {
		for _, c := range cases {
			for _, m := range []*mdns.Msg{query(c.Name, c.Type), query(c.Name, c.Type).SetEdns0(600, true)} {
				packet, err := m.Pack()
				if err != nil {
					f.Fatal(err)
				}
				f.Add(packet)
			}
		}
	}
	z := testZone(f)
	f.Fuzz(func(t *testing.T, packet []byte) {
		req := new(mdns.Msg)
		if req.Unpack(packet) != nil || req.Response {
			return
		}
		for _, limit := range []int{udpSize(req), mdns.MaxMsgSize} {
			reply := respond(z, nil, req, limit, len(packet))
			wire, err := reply.Pack()
			if err != nil {
				t.Fatalf("reply %v can't be packed: %v", reply, err)
			}
			if len(wire) > limit {
				t.Fatalf("reply has %d bytes, the limit is %d: %v", len(wire), limit, reply)
			}
			if err := new(mdns.Msg).Unpack(wire); err != nil || !reply.Response || reply.Id != req.Id {
				t.Fatalf("reply %v is no answer to %v (%v)", reply, req, err)
			}
		}
	})
}
