package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is one parsed file of the module or of a module nested in it.
type source struct {
	path string // from the module's root, with slashes
	ast  *ast.File
	set  *token.FileSet
}

func (s source) folder() string { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s source) isTest() bool   { return strings.HasSuffix(s.path, "_test.go") }
func (s source) isLinux() bool {
	return strings.HasSuffix(s.path, "_linux.go") || strings.HasSuffix(s.path, "_linux_test.go")
}
func (s source) line(p token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.set.Position(p).Line)
}

// callee names what a call calls, as "package.Function" where the file imports that package, else
// as ".Method".
func (s source) callee(c *ast.CallExpr) string {
	selector, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := selector.X.(*ast.Ident); ok && x.Obj == nil {
		for _, i := range s.ast.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if i.Name != nil && i.Name.Name == x.Name || i.Name == nil && filepath.Base(path) == x.Name {
				return path + "." + selector.Sel.Name
			}
		}
	}
	return "." + selector.Sel.Name
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		from, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(from), file, set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOnlyLinuxFilesTouchTheMachine(t *testing.T) {
	for _, s := range sources(t) {
		if s.isLinux() {
			continue
		}
		for _, i := range s.ast.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); slices.Contains(linuxOnly, path) {
				t.Errorf("%s imports %s: only *_linux.go and *_linux_test.go may", s.line(i.Pos()), path)
			}
		}
		if within(s.folder(), []string{"test/policy"}) {
			continue // names the folder to look for it
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && strings.HasPrefix(strings.Trim(l.Value, "\"`"), "/proc/") {
				t.Errorf("%s names %s: only *_linux.go and *_linux_test.go may", s.line(l.Pos()), l.Value)
			}
			return true
		})
	}
}

func TestRenderingReadsNoClockAndNoRandomNumbers(t *testing.T) {
	clock := []string{"time.Now", "time.Since", "time.Until", "time.After", "time.NewTimer", "time.NewTicker", "time.Sleep"}
	for _, s := range sources(t) {
		if s.isTest() || s.isLinux() || !within(s.folder(), pure) {
			continue
		}
		for _, i := range s.ast.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); path == "math/rand" || path == "math/rand/v2" || path == "crypto/rand" {
				t.Errorf("%s imports %s: the same input must give the same bytes", s.line(i.Pos()), path)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok && slices.Contains(clock, s.callee(c)) {
				t.Errorf("%s calls %s: the same input must give the same bytes", s.line(c.Pos()), s.callee(c))
			}
			return true
		})
	}
}

// A sleep passes or fails with the machine's load; a skip passes where nothing was tested. The pause
// between two looks at a condition belongs in a helper called eventually, which has a deadline.
func TestTestsNeitherSleepNorSkip(t *testing.T) {
	used := map[allowance]bool{}
	for _, s := range sources(t) {
		if !s.isTest() && !within(s.folder(), []string{"test"}) {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.EqualFold(f.Name.Name, "eventually") {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				c, ok := n.(*ast.CallExpr)
				if !ok || !slices.Contains([]string{"time.Sleep", ".Skip", ".Skipf", ".SkipNow"}, s.callee(c)) {
					return true
				}
				for _, a := range allowances {
					if a.file == s.path && a.call == s.callee(c) {
						used[a] = true
						return true
					}
				}
				t.Errorf("%s calls %s: wait for a condition with a deadline, or make what is missing", s.line(c.Pos()), s.callee(c))
				return true
			})
		}
	}
	for _, a := range allowances {
		if !used[a] {
			t.Errorf("%s is allowed %s (%s) and no longer uses it: drop the allowance", a.file, a.call, a.why)
		}
	}
}
