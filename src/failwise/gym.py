"""The door for Gymnasium: ``gymnasium.make("failwise.gym:failwise/tiny.push")`` imports this module by itself."""

from failwise.envs.gym_bridge import GymEnv, gym_id, image_key

__all__ = ["GymEnv", "gym_id", "image_key"]
