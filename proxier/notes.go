package proxier

import (
	"errors"
	"strings"
	"sync"

	"go.uber.org/zap"
)

// noteLog logs what is odd about an object once, and again only when it becomes something else.
type noteLog struct {
	log *zap.Logger

	mu   sync.Mutex
	last map[string]string
}

// report logs what conversion said about an object, and tells whether the result is to be used: after an
// error the last good version stays. That an object is not served is no matter for a user's attention.
func (n *noteLog) report(object string, served bool, notes []string, err error) (use bool) {
	text := strings.Join(notes, "; ")
	if err != nil {
		text = errors.Join(err, errors.New(text)).Error()
	}
	if !n.changed(object, text) {
		return err == nil
	}
	switch {
	case err != nil:
		n.log.Error("object can't be used; its last good version, if any, stays", zap.String("object", object), zap.Error(err), zap.Strings("notes", notes))
	case served:
		n.log.Warn("object is odd", zap.String("object", object), zap.Strings("notes", notes))
	default:
		n.log.Debug("object is not served", zap.String("object", object), zap.Strings("notes", notes))
	}
	return err == nil
}

// once logs a text about something that is no single object.
func (n *noteLog) once(about, text string) {
	if n.changed(about, text) {
		n.log.Info(text)
	}
}

func (n *noteLog) changed(about, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last[about] == text {
		return false
	}
	if n.last == nil {
		n.last = map[string]string{}
	}
	if text == "" {
		delete(n.last, about)
		return false
	}
	n.last[about] = text
	return true
}

// forget forgets an object that is gone.
func (n *noteLog) forget(about string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.last, about)
}
