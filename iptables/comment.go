package iptables

import (
	"strings"

	"svcproxy/model"
)

// maxComment is the longest comment in bytes that the kernel takes (XT_MAX_COMMENT_LEN, less the final 0).
const maxComment = 255

// comment makes a text fit to be a rule's comment, so that an odd name can't make a whole transaction fail.
// What is too long or would end a line of iptables-restore's input is shortened, and told apart by a hash.
func comment(s string) string {
	if len(s) <= maxComment && strings.IndexFunc(s, unfit) < 0 {
		return s
	}
	hash := model.ChainHash(s)
	kept := strings.Map(func(r rune) rune {
		if unfit(r) {
			return '?'
		}
		return r
	}, s)
	kept = kept[:min(len(kept), maxComment-len(hash)-1)]
	return kept + "~" + hash
}

// unfit tells whether a character has no place in a comment: iptables-restore reads lines of ASCII.
func unfit(r rune) bool { return r < ' ' || r >= 0x7f }

// appendQuoted appends a string as iptables-save quotes it (xtables_save_string).
func appendQuoted(b []byte, s string) []byte {
	if s != "" && strings.IndexFunc(s, needsQuotes) < 0 {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := range len(s) {
		switch s[i] {
		case '"', '\\', '\'':
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func needsQuotes(r rune) bool {
	return !(r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
}
