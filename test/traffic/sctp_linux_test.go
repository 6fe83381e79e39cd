package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/sandbox"
)

// sctpPacket is an SCTP packet with one chunk, INIT or INIT ACK, as RFC 9260 has it in sections 3.1, 3.3.2
// and 3.3.3. The kernel of the tests may lack SCTP sockets; to connection tracking, a handmade handshake
// is as good as any.
type sctpPacket struct {
	source, destination uint16
	// tag is the verification tag: 0 in an INIT, the initiate tag of the peer in an INIT ACK.
	tag         uint32
	chunk       byte
	initiateTag uint32
	// cookie is the state cookie of an INIT ACK.
	cookie []byte
}

const (
	sctpInit        = 1
	sctpInitAck     = 2
	sctpStateCookie = 7
	sctpHeader      = 12
	sctpChunk       = 20 // of INIT and INIT ACK, without parameters
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (p sctpPacket) bytes() []byte {
	chunk := []byte{p.chunk, 0, 0, 0}
	chunk = binary.BigEndian.AppendUint32(chunk, p.initiateTag)
	chunk = binary.BigEndian.AppendUint32(chunk, 65535) // receiver window
	chunk = binary.BigEndian.AppendUint16(chunk, 1)     // outbound streams
	chunk = binary.BigEndian.AppendUint16(chunk, 1)     // inbound streams
	chunk = binary.BigEndian.AppendUint32(chunk, p.initiateTag)
	if p.chunk == sctpInitAck {
		chunk = binary.BigEndian.AppendUint16(chunk, sctpStateCookie)
		chunk = binary.BigEndian.AppendUint16(chunk, uint16(4+len(p.cookie)))
		chunk = append(chunk, p.cookie...)
	}
	binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))
	for len(chunk)%4 != 0 {
		chunk = append(chunk, 0)
	}
	b := binary.BigEndian.AppendUint16(nil, p.source)
	b = binary.BigEndian.AppendUint16(b, p.destination)
	b = binary.BigEndian.AppendUint32(b, p.tag)
	b = append(append(b, 0, 0, 0, 0), chunk...)
	// Alone among the header's fields the checksum is in little-endian order (RFC 9260, appendix A).
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

func parseSCTP(b []byte) (p sctpPacket, err error) {
	if len(b) < sctpHeader+sctpChunk {
		return p, fmt.Errorf("SCTP packet of %d bytes", len(b))
	}
	b = append([]byte(nil), b...)
	sum := binary.LittleEndian.Uint32(b[8:])
	clear(b[8:12])
	if want := crc32.Checksum(b, castagnoli); sum != want {
		return p, fmt.Errorf("SCTP checksum is %#x, not %#x", sum, want)
	}
	chunk := b[sctpHeader:]
	p = sctpPacket{
		source: binary.BigEndian.Uint16(b), destination: binary.BigEndian.Uint16(b[2:]), tag: binary.BigEndian.Uint32(b[4:]),
		chunk: chunk[0], initiateTag: binary.BigEndian.Uint32(chunk[4:]),
	}
	if p.chunk != sctpInitAck {
		return p, nil
	}
	parameter := chunk[sctpChunk:]
	if len(parameter) < 4 || binary.BigEndian.Uint16(parameter) != sctpStateCookie {
		return p, errors.New("INIT ACK without a state cookie")
	}
	length := int(binary.BigEndian.Uint16(parameter[2:]))
	if length < 4 || length > len(parameter) {
		return p, fmt.Errorf("state cookie of %d bytes in %d", length, len(parameter))
	}
	p.cookie = parameter[4:length]
	return p, nil
}

// serveSCTP answers every INIT with an INIT ACK whose cookie is the answer.
func serveSCTP(t *testing.T, ns *sandbox.Netns, at netip.AddrPort) {
	t.Helper()
	network := map[model.Family]string{model.IPv4: "ip4:132", model.IPv6: "ip6:132"}[model.FamilyOf(at.Addr())]
	c, err := ns.ListenPacket(t.Context(), network, at.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			in, err := parseSCTP(b[:n])
			if err != nil || in.chunk != sctpInit || in.tag != 0 || in.destination != at.Port() {
				continue
			}
			source, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
			cookie := answer{at, netip.AddrPortFrom(source.Unmap(), in.source)}.String()
			out := sctpPacket{at.Port(), in.source, in.initiateTag, sctpInitAck, in.initiateTag ^ 1, []byte(cookie)}
			// The client may be gone; the next one counts.
			_, _ = c.WriteTo(out.bytes(), from)
		}
	}()
}

// The check value of CRC32c is that of RFC 3720, appendix B.4: 32 bytes of zeros.
func TestSCTPPacketsKeepTheirContent(t *testing.T) {
	if got := crc32.Checksum(make([]byte, 32), castagnoli); got != 0x8a9136aa {
		t.Errorf("CRC32c of 32 zeros is %#x", got)
	}
	sent := sctpPacket{1234, 36412, 7, sctpInitAck, 8, []byte("10.244.0.10:9000 10.244.0.100:1")}
	b := sent.bytes()
	got, err := parseSCTP(b)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(sent) {
		t.Errorf("got %v, %v; want %v", got, err, sent)
	}
	b[0]++
	if _, err := parseSCTP(b); err == nil {
		t.Error("a packet with another port than its checksum was taken")
	}
}
