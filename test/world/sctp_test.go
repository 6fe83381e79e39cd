package world

import (
	"fmt"
	"hash/crc32"
	"testing"
)

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
