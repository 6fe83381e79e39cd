package iptables

import (
	"errors"
	"strings"
)

var errQuote = errors.New("quotation does not end")

// split divides a line of iptables-save into words, as iptables-restore does: words are parted by spaces
// except in double quotes, where a backslash makes the next character stand for itself. It appends to words.
func split(words []string, line string) ([]string, error) {
	for {
		line = strings.TrimLeft(line, " ")
		if line == "" {
			return words, nil
		}
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			words, line = append(words, word), rest
			continue
		}
		end := strings.IndexAny(line[1:], `"\`) + 1
		if end == 0 {
			return nil, errQuote
		}
		if line[end] == '"' {
			words, line = append(words, line[1:end]), line[end+1:]
			continue
		}
		word, rest, err := unescape(line[1:])
		if err != nil {
			return nil, err
		}
		words, line = append(words, word), rest
	}
}

// unescape reads up to the closing quote and returns what follows it too.
func unescape(s string) (word, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", errQuote
}
