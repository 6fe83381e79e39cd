package hostile

import (
	"math/rand/v2"
	"strings"
)

// Words that have a meaning to somebody on the way: iptables-restore, nft, a shell, YAML, a terminal, or
// whoever takes a name for a path.
var words = []string{
	"", " ", "\t", "\n", "\x00", "-", "--", ".", "..", "/", ":", "*", "~", "#", ";", ",", "{", "}", "@services",
	"COMMIT", "\nCOMMIT\n", "*nat", "\n*nat\n:INPUT - [0:0]\nCOMMIT\n", "x\n-F\nCOMMIT\n", "-j ACCEPT",
	"web\" -j ACCEPT -m comment --comment \"x", "web' -j DROP #", "\" }\nflush ruleset\n{ \"", "\"; flush ruleset; #",
	"$(reboot)", "`reboot`", "; rm -rf /", "${IFS}", "%s%n", "\\", "\\\"", "\\n", "a\\", "'", "\"", "\"\"",
	"KUBE-SERVICES", "KUBE-SVC-ERIFXISQEP7F7OF4", "SVCPROXY-CANARY", "lb-3", "goto no-endpoints", "svcproxy",
	"UPPER", "under_score", "über", "日本語", "\u202egnp.exe", "\u200b", "\ufeff", "a\u0300", "\xff\xfe", "\xc3",
	"\x1b[2J", "\x7f", "\r", "\r\n", "a.b", "-a", "a-", "a--b", "xn--80ak6aa92e", "null", "~", "true", "1e3", "0x10",
	"../../etc/passwd", "kube-system/kube-dns", "a:b", "a/b:c", "10.96.0.10", "::1",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 127), strings.Repeat("b", 128),
	strings.Repeat("c", 253), strings.Repeat("c", 254), strings.Repeat("d", 10_000), strings.Repeat("\n", 10_000),
	strings.Repeat("é", 5_000), strings.Repeat("\"", 300),
}

// Addresses that are none, or are none for a Service or an endpoint.
var addresses = []string{
	"", "None", "none", "NONE", "0.0.0.0", "255.255.255.255", "127.0.0.1", "127.255.255.255", "169.254.169.254",
	"224.0.0.1", "239.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:10.96.0.10",
	"::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "010.096.000.010", "10.96.0.010", "10.96.0", "10.96.0.10.1", "10.96.0.256",
	"10.96.0.10/32", "10.96.0.10:80", "[fd00::1]", "[fd00::1]:80", "0x0a600001", "174063626", "1.2.3.4\n", " 10.96.0.10",
	"10.96.0.10 -j ACCEPT", "10.96.0.10,10.96.0.11", "localhost", "example.com", "fd00:10:96::1::2", "fd00:10:96::g",
	"10.96.0.10%eth0", "fd00:10:96::9%25eth0", "-1", "10.96.0.-1", "１０.96.0.1", "\x00", "172.18.0.2", "10.244.0.1",
}

// Protocols that are none of a Service.
var protocols = []string{"", "tcp", "Tcp", "ICMP", "TCP ", "TCP\n", "6", "UDPLITE", "SCTP,TCP", "\x00", "*"}

// Port numbers at and beyond the edges.
var ports = []int32{0, -1, 1, 53, 80, 65535, 65536, 70000, -65536, 1 << 30, -1 << 31, 1<<31 - 1}

// pick returns one of several.
func pick[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

// word returns a hostile word, by itself or glued to something harmless.
func word(r *rand.Rand) string {
	w := pick(r, words)
	switch r.IntN(5) {
	case 0:
		return "web" + w
	case 1:
		return w + "web"
	case 2:
		return noise(r)
	}
	return w
}

// noise returns random bytes.
func noise(r *rand.Rand) string {
	b := make([]byte, r.IntN(80))
	for i := range b {
		b[i] = byte(r.UintN(256))
	}
	return string(b)
}
