package nftables

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/sandbox"
)

// sctpPacket is an SCTP packet with one INIT (type 1) or INIT ACK (type 2) chunk, RFC 9260.
func sctpPacket(from, to uint16, tag uint32, chunk byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0)
	body := binary.BigEndian.AppendUint32(nil, 0x1234)  // initiate tag
	body = binary.BigEndian.AppendUint32(body, 1<<16)   // receiver window
	body = append(body, 0, 1, 0, 1)                     // streams
	body = binary.BigEndian.AppendUint32(body, 1)       // first TSN
	body = append(body, 0, 7, 0, 8, 'c', 'o', 'o', 'k') // state cookie
	b = append(b, chunk, 0, 0, byte(4+len(body)))
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// The kernel here has no SCTP sockets: both ends speak it over raw ones.
func TestAnSCTPAssociationIsTranslatedBothWays(t *testing.T) {
	for f, network := range map[model.Family]string{model.IPv4: "ip4:132", model.IPv6: "ip6:132"} {
		c := newCluster(t, f, 1)
		apply(t, c.backend, full(planOf(c.config(), c.service(1, c.endpoints(0, 1), model.SCTP))))
		raw := func(p *sandbox.Pod) net.PacketConn {
			conn, err := p.ListenPacket(t.Context(), network, p.Addrs[0].String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			return conn
		}
		client, server := raw(c.client), raw(c.pods[0])
		if _, err := client.WriteTo(sctpPacket(4000, 80, 0, 1), &net.IPAddr{IP: c.vip(1).AsSlice()}); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 200)
		n, from, err := server.ReadFrom(b)
		if err != nil {
			t.Fatalf("%s: no INIT at the endpoint: %v", f, err)
		}
		if n < 12 || binary.BigEndian.Uint16(b[2:]) != 8080 || from.String() != c.client.Addrs[0].String() {
			t.Errorf("%s: INIT to port %d from %s", f, binary.BigEndian.Uint16(b[2:]), from)
		}
		if _, err := server.WriteTo(sctpPacket(8080, 4000, 0x1234, 2), from); err != nil {
			t.Fatal(err)
		}
		n, from, err = client.ReadFrom(b)
		if err != nil {
			t.Fatalf("%s: no INIT ACK at the client: %v", f, err)
		}
		if n < 12 || binary.BigEndian.Uint16(b) != 80 || from.String() != c.vip(1).String() {
			t.Errorf("%s: INIT ACK of port %d from %s", f, binary.BigEndian.Uint16(b), from)
		}
	}
}
