package lab

import (
	"reflect"
	"strings"
	"testing"
)

func TestSteps(t *testing.T) {
	page := "# Lab\n$ not this\n```console\n$ ls \\\n   /\nbin\n$ true\n```\n```sh\n$ nor this\n```\n```console root\n$ id -u\n0\n```\n"
	got, err := Steps(page)
	want := []Step{
		{Line: 4, Command: "ls \\\n   /", Output: []string{"bin"}},
		{Line: 7, Command: "true"},
		{Line: 13, Root: true, Command: "id -u", Output: []string{"0"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestAPageWithoutOrderIsAnError(t *testing.T) {
	for page, want := range map[string]string{
		"```console\n$ ls\n":          "line 1: the block is not closed",
		"```console\nout\n```\n":      "line 2: output without a command",
		"```console wild\n$ a\n```\n": `line 1: a block of kind "wild"`,
	} {
		if _, err := Steps(page); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", page, err, want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		matches   bool
	}{
		{"a", "a\n", true},
		{"a", "a", true},
		{"a", "b\n", false},
		{"a", "a\nb\n", false},
		{"a\nb", "a\n", false},
		{"pid … of …", "pid 12 of 13\n", true},
		{"pid … of …", "pid 12\nof 13\n", false},
		{"a\n…\nc", "a\nb\nb\nc\n", true},
		{"a\n…\nc", "a\nc\n", true},
		{"a\n…\nc", "a\nb\n", false},
		{"a.c", "abc\n", false},
		{"a  ", "a\n", true},
		{"…", "", true},
	} {
		if got := Matches(strings.Split(c.want, "\n"), c.got); got != c.matches {
			t.Errorf("%q against %q: %v, want %v", c.got, c.want, got, c.matches)
		}
	}
	if !Matches(nil, "") || Matches(nil, "out\n") {
		t.Error("a command without output")
	}
}
