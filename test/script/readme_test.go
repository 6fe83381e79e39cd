package script

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README is how a reader finds the script of a feature, and how to read it.
func TestReadmeLinksEveryScriptAndNamesEveryStep(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{}
	for _, m := range regexp.MustCompile(`\]\((testdata/[^)]+)\)`).FindAllStringSubmatch(string(readme), -1) {
		linked[m[1]] = true
		if _, err := os.Stat(m[1]); err != nil {
			t.Error(err)
		}
	}
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if !linked[path] {
			t.Errorf("README.md has no link to %s", path)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parse(filepath.Base(path), data)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range s.steps {
			name := st.words[0]
			for i := 1; strings.HasPrefix(name, "["); i++ {
				name = st.word(i)
			}
			if !regexp.MustCompile("`" + regexp.QuoteMeta(name) + `[ \x60]`).Match(readme) {
				t.Errorf("README.md does not tell what %q does, which %s:%d uses", name, path, st.line)
			}
		}
	}
}
