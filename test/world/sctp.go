package world

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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
