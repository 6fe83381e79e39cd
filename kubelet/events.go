package kubelet

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Event is something that happened to a pod, as kubectl describe shows it.
type Event struct {
	Time      time.Time `json:"time"` // of the last, if there were several
	Type      string    `json:"type"` // Normal or Warning
	Reason    string    `json:"reason"`
	Container string    `json:"container,omitempty"`
	Message   string    `json:"message"`
	Count     int       `json:"count"`
}

// maxEvents of one pod are kept.
const maxEvents = 100

// Events are the last that happened to the pod, oldest first.
func (k *Kubelet) Events(name types.NamespacedName) []Event {
	w, err := k.worker(name)
	if err != nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

func (w *worker) event(kind, reason, container, format string, args ...any) {
	e := Event{Time: w.k.clock.Now(), Type: kind, Reason: reason, Container: container, Message: fmt.Sprintf(format, args...), Count: 1}
	w.mu.Lock()
	for i, old := range w.events {
		if old.Type == e.Type && old.Reason == e.Reason && old.Container == e.Container && old.Message == e.Message {
			e.Count = old.Count + 1
			w.events = slices.Delete(w.events, i, i+1)
			break
		}
	}
	if len(w.events) == maxEvents {
		w.events = slices.Delete(w.events, 0, 1)
	}
	w.events = append(w.events, e)
	w.mu.Unlock()
	log := w.log.Info
	if kind == v1.EventTypeWarning {
		log = w.log.Warn
	}
	fields := []zap.Field{zap.String("reason", e.Reason)}
	if container != "" {
		fields = append(fields, zap.String("container", container))
	}
	log(e.Message, fields...)
}
